"""Tokens that a critic alone reads: where they stand, and how its rows lie beside the policy's."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from llmrl.batch import Batch
from llmrl.data.contexts import CriticRows, check_contexts, context_ids
from llmrl.data.packing import pack
from llmrl.errors import RecipeError
from llmrl.types import ACTOR, ENVIRONMENT, Episode, Group, Prompt, Trajectory, Turn

LETTERS = SimpleNamespace(encode=lambda text, *, add_special_tokens: [ord(letter) for letter in text])


def trajectory(hidden: str | None = None, **row: str) -> Trajectory:
    made = Trajectory(Prompt("p", (1, 2), "", row), [Turn(ACTOR, [3])], "stop")
    made.hidden = hidden  # pyright: ignore
    return made


def test_a_context_stands_before_the_prompt_or_about_it():
    found = context_ids("{answer};", [trajectory(answer="7"), trajectory(answer="42")], LETTERS)
    assert found.tolist() == [[55, 59, -1, -2], [52, 50, 59, -1]]
    assert context_ids("a{prompt}{hidden}", [trajectory("xy")], LETTERS).tolist() == [[97, -1, 120, 121]]
    with pytest.raises(ValueError, match="hidden from the policy"):
        context_ids("{hidden}", [trajectory()], LETTERS)


def test_the_rows_by_hand():
    # the row of the module's docstring, and one that is shorter, without a context before the prompt
    batch = Batch(
        token_ids=torch.tensor([[10, 11, 20, 21, 30, 22], [10, 20, 0, 0, 0, 0]]),
        attention_mask=torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]]).bool(),
        response_mask=torch.tensor([[0, 0, 1, 1, 0, 1], [0, 1, 0, 0, 0, 0]]).bool(),
        turn_ids=torch.tensor([[-1, -1, 0, 0, -1, 1], [-1, 0, -1, -1, -1, -1]]),
        group_ids=torch.tensor([0, 1]),
        context_ids=torch.tensor([[90, 91, -1, 92], [-1, 93, -2, -2]]),
    )
    rows = CriticRows.of(batch)
    assert rows.batch.token_ids.tolist() == [[90, 91, 10, 11, 92, 20, 21, 30, 22], [10, 93, 20, 0, 0, 0, 0, 0, 0]]
    assert rows.columns.tolist() == [[-1, -1, 0, 1, -1, 2, 3, 4, 5], [0, -1, 1, -1, -1, -1, -1, -1, -1]]
    assert rows.batch.lengths.tolist() == [9, 3]
    assert rows.batch.response_mask.long().tolist() == [[0, 0, 0, 0, 0, 1, 1, 0, 1], [0, 0, 1, 0, 0, 0, 0, 0, 0]]
    assert rows.batch.turn_ids.tolist() == [[-1, -1, -1, -1, -1, 0, 0, -1, 1], [-1, -1, 0, *[-1] * 6]]
    assert "context_ids" not in rows.batch and rows.batch.group_ids.tolist() == [0, 1]
    places = torch.arange(18.0).reshape(2, 9, 1)
    assert rows.back(places)[:, :, 0].tolist() == [[2, 3, 5, 6, 7, 8], [9, 11, 0, 0, 0, 0]]
    spread = rows.spread(torch.arange(12.0).reshape(2, 6), math.nan)
    assert torch.equal(rows.back(spread)[batch.attention_mask], torch.arange(12.0).reshape(2, 6)[batch.attention_mask])
    assert spread.isnan().sum() == 3 + 7
    plain = CriticRows.of(batch.without("context_ids"))
    assert torch.equal(plain.back(places[:, :6]), places[:, :6])


def test_a_name_that_no_row_has_is_refused_with_the_nearest():
    role = SimpleNamespace(critic=SimpleNamespace(context="{anwser}"))
    recipe = SimpleNamespace(roles={}, by_role={ACTOR: role})
    with pytest.raises(RecipeError, match=r"critic.context: no column 'anwser'; did you mean 'answer'\?.*in p"):
        check_contexts(recipe, [Prompt("p", (), "", {"answer": "7"})])  # pyright: ignore
    role.critic.context = "{answer} {hidden}{prompt}"
    check_contexts(recipe, [Prompt("p", (), "", {"answer": "7"})])  # pyright: ignore


def test_what_other_authors_were_told_and_wrote_stands_before_the_turns_that_came_later():
    """Turns in their order: the guide's 0, the actor's 1, the guide's 2 and 3, the actor's 4, the guide's 5."""
    asked = Prompt("p", (1, 2), "q", {})
    guide, own = (Trajectory(replace(asked, text=text), [], "stop", author=name) for name, text in NAMED.items())
    guide.turns = [
        Turn("guide", [0], text="a", place=0),
        *(
            Turn(ENVIRONMENT, [0], text="e"),
            Turn("guide", [0], text="b", place=2),
            Turn("guide", [0], text="c", place=3),
        ),
        *(Turn(ENVIRONMENT, [0], text="f"), Turn("guide", [0], text="d", place=5)),
    ]
    own.turns = [Turn(ACTOR, [20, 21], place=1), Turn(ENVIRONMENT, [30]), Turn(ACTOR, [22], place=4)]
    own.episode = guide.episode = Episode(asked, [guide, own])
    found = context_ids("c", [own, guide], LETTERS, others="{text}{author}.")
    said = ["c", -1, "genvironment.aguide.", -1, "eenvironment.bguide.cguide."]
    assert found[0].tolist() == [*_ids(said), *[-2] * (found.shape[1] - len(_ids(said)))]
    told = ["c", -1, -1, "qenvironment.actor.", -1, -1, "environment.actor."]
    assert found[1][: len(_ids(told))].tolist() == _ids(told)  # the actor's turns have no text here
    batch = pack([Group(asked, [own])], ACTOR).with_(context_ids=found[:1])
    assert CriticRows.of(batch).batch.token_ids[0].tolist() == [
        *_ids(["c"]), 1, 2, *_ids(["genvironment.aguide."]), 20, 21, 30, *_ids(["eenvironment.bguide.cguide."]), 22,
    ]  # fmt: skip


NAMED = {"guide": "g", ACTOR: "q"}


def _ids(said: list) -> list[int]:
    """Letters as the tokenizer encodes them, and numbers as they are."""
    return [token for one in said for token in ([one] if isinstance(one, int) else map(ord, one))]

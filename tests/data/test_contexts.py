"""Tokens that a critic alone reads: where they stand, and how its rows lie beside the policy's."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from llmrl.batch import Batch
from llmrl.data.contexts import CriticRows, check_contexts, context_ids
from llmrl.errors import RecipeError
from llmrl.types import ACTOR, Prompt, Trajectory, Turn

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

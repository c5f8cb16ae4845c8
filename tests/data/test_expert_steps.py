from __future__ import annotations

import json

import pytest

from llmrl.data.expert_steps import expert_steps
from llmrl.data.forms import COMPARISONS
from llmrl.data.transforms import read_rows
from llmrl.errors import RecipeError
from llmrl.recipe_rows import Rows


def said(role: str, text: str) -> dict:
    return {"role": role, "content": text}


SYSTEM, TASK, LOOK, ROOM, TAKE = (
    said("system", "You act."), said("user", "Fetch."), said("assistant", "look"), said("user", "A room."),
    said("assistant", "take"),
)  # fmt: skip
CALLS = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}


def test_each_turn_of_the_expert_is_a_question_of_its_own():
    one, other = expert_steps([{"messages": json.dumps([SYSTEM, TASK, LOOK, ROOM, TAKE]), "seed": 3}])
    assert one == {
        "seed": 3, "prompt": [SYSTEM, TASK], "completion": "look", "label": True, "turn": 0, "turns": 2,
    }  # fmt: skip
    assert (other["prompt"], other["completion"], other["turn"]) == ([SYSTEM, TASK, LOOK, ROOM], "take", 1)
    assert [row["turn"] for row in expert_steps([{"m": [TASK, LOOK, ROOM, TAKE]}], messages="m", least_turn=1)] == [1]


def test_turns_without_a_text_or_a_question_make_no_row():
    [one] = expert_steps([{"messages": [LOOK, TASK, CALLS, said("tool", "3"), TAKE]}])
    assert (one["completion"], one["turn"], one["turns"]) == ("take", 2, 3)


def test_rows_without_such_turns_are_refused():
    with pytest.raises(ValueError, match="no turn of an assistant"):
        expert_steps([{"messages": [SYSTEM, LOOK]}])
    with pytest.raises(ValueError, match="row 1: column 'messages' holds no list of messages"):
        expert_steps([{"messages": [TASK, LOOK]}, {"messages": "hi"}])


def test_the_made_rows_are_compared_with_own_actions():
    source = Rows(path="x.jsonl", chat=True, transform="expert_steps")
    found = read_rows(source, [{"messages": [TASK, LOOK]}], "train", COMPARISONS)
    assert (found.source.prompt, found.source.completion, found.source.label) == ("prompt", "completion", "label")
    with pytest.raises(RecipeError, match=r"data\.train\.transform: expert_steps: no turn"):
        read_rows(source, [{"messages": [TASK]}], "train", COMPARISONS)

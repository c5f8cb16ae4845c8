"""Which values are gold answers, and how a fault of the data's rows is told."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from llmrl.errors import RecipeError
from llmrl.marks import reads_answers
from llmrl.pieces import bind
from llmrl.rewards.golds import check_golds, gold_texts
from llmrl.rewards.reward import Reward
from llmrl.types import Prompt


@pytest.mark.parametrize(
    ("gold", "texts"),
    [
        ("5 cm", ["5 cm"]),
        ("None", ["None"]),
        (5, ["5"]),
        (5.0, ["5"]),
        (-0.25, ["-0.25"]),
        (Decimal("1.50"), ["1.50"]),
        ([5, "five"], ["5", "five"]),
        (("a",), ["a"]),
        (10**400, [str(10**400)]),
    ],
)
def test_the_texts_of_golds(gold, texts):
    assert gold_texts(gold) == texts


@pytest.mark.parametrize(
    ("gold", "shown"),
    [
        (None, "null is"),
        (float("nan"), "nan is"),
        (float("inf"), "inf is"),
        (Decimal("NaN"), "Decimal"),
        (True, "True is"),
        ({"value": 5}, "{'value': 5} is"),
        ([], "an empty list is"),
        ("", "'' is"),
        (" \n", "is"),
        ([5, None], "null is"),
        ([[5]], r"\[5\] is"),
        ({"x": "y" * 200}, r"y\.\.\. is"),
    ],
)
def test_other_values_are_no_golds(gold, shown):
    with pytest.raises(ValueError, match=f"{shown}.* no answer"):
        gold_texts(gold)


@reads_answers(lambda completion, prompt, **settings: completion)
def marked(completion: str, answer: str) -> bool:
    return completion == answer


@reads_answers(lambda completion, prompt, **settings: completion)
def of_rows(completion: str, row: dict[str, Any]) -> bool:
    return completion == row["answer"]


def unmarked(completion: str, answer: dict[str, str]) -> bool:
    return completion == answer["text"]


def rewards(function: Any) -> list[Reward]:
    return [Reward(function.__name__, bind(function.__name__, function, {}, key="rewards"))]


def prompts(part: str, *golds: Any) -> list[Prompt]:
    return [Prompt(f"{part}:{index}", (1,), "q", {"answer": gold}) for index, gold in enumerate(golds)]


def test_every_row_is_looked_at_and_the_first_faulty_ones_are_named():
    rows = prompts("train", *["5"] * 30, None, {}, [], "") + prompts("eval", "7", float("nan"))
    with pytest.raises(RecipeError) as caught:
        check_golds(rewards(marked), rows)
    expected = "expected text, a finite number, or a list of these of which any is right"
    assert caught.value.faults == [
        "data.train.answer: 4 of 34 rows have an answer that rewards.marked cannot use: train:30: null is no answer; "
        f"train:31: {{}} is no answer; train:32: an empty list is no answer; {expected}",
        "data.eval.answer: 1 of 2 rows have an answer that rewards.marked cannot use: eval:1: nan is no answer; "
        + expected,
    ]


def test_rows_are_free_where_no_verifier_reads_golds():
    check_golds(rewards(marked), prompts("train", "5", ["5", 5.0]))
    check_golds(rewards(unmarked), prompts("train", {"text": "5"}, None))
    check_golds(rewards(of_rows), prompts("train", None))

"""The generated programming problems and products: their answers are right, and a seed always gives the same rows."""

from __future__ import annotations

import pytest

from llmrl.tasks.products import demonstration as tool_demonstration
from llmrl.tasks.products import products, right_product
from llmrl.tasks.programs import INPUTS, demonstration, problems


def value(expression: str, x: int) -> int:
    return eval(expression, {"x": x, "max": max, "abs": abs})


def test_tests_hold_the_answers_values_and_the_prompt_shows_four_of_them():
    for row in problems(50, seed=5):
        tests = row["tests"]
        assert tests["inputs"] == [[x] for x in INPUTS]
        assert tests["outputs"] == [value(row["answer"], x) for x in INPUTS]
        shown = [tuple(map(int, pair.split(":"))) for pair in row["question"].removesuffix(">").split()]
        assert len(shown) == 4 and [x for x, _ in shown] == sorted({x for x, _ in shown})
        assert all(y == value(row["answer"], x) for x, y in shown)


def test_rows_depend_on_seed_and_place_alone():
    assert problems(5, seed=5) == problems(9, seed=5)[:5]
    assert problems(5, seed=5) != problems(5, seed=6)
    assert products(5, seed=5) == products(9, seed=5)[:5]


def test_a_third_of_the_demonstrators_is_careful_and_the_others_fit_the_first_example():
    rows = problems(2000, seed=5)
    careful = [row for row in rows if demonstration(row) == row["answer"]]
    assert 0.33 < len(careful) / len(rows) < 0.42  # 0.35, and hasty ones that are right by luck
    hasty = [row for row in rows if demonstration(row) != row["answer"]]
    for row in hasty[:50]:
        x, y = map(int, row["question"].split()[0].split(":"))
        assert value(demonstration(row), x) == y


def test_products_are_what_they_say_and_few_demonstrators_work_them_out():
    rows = products(2000, seed=5)
    assert all(eval(row["question"].removesuffix(">")) == int(row["answer"]) for row in rows)
    said = [tool_demonstration(row) for row in rows]
    ran = [text for text, row in zip(said, rows, strict=True) if text.startswith("[") and text.endswith(row["answer"])]
    slips = [text for text in said if "+]error;" in text]
    assert 0.12 < len(ran) / len(rows) < 0.18
    assert 0.12 < len(slips) / len(rows) < 0.18


@pytest.mark.parametrize(
    ("completion", "right"), [("=1781", True), ("1781", False), ("=178", False), ("=1781 ", False)]
)
def test_the_last_turn_is_the_answer_and_nothing_else(completion: str, right: bool):
    score = right_product(completion, "1781")
    assert (score.value, score.correct) == (float(right), right)

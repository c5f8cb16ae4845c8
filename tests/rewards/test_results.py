from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest
import sympy
import torch

from llmrl.rewards.results import as_score
from llmrl.types import Failure, Score


def result_of(result: object, turns: int = 1, grades: int | None = None) -> Score | Failure | None:
    return as_score("mine", result, turns=turns, grades=grades)


@pytest.mark.parametrize(
    "true",
    [True, numpy.bool_(True), numpy.array([[True]]), torch.tensor(True), torch.tensor([True]), sympy.true],
)
def test_a_bool_of_any_library_is_a_verdict(true):
    for result in (true, Score(0.25, true)):
        found = result_of(result)
        assert isinstance(found, Score) and found.correct is True
    assert result_of(true) == Score(1.0, True)


@pytest.mark.parametrize("false", [False, numpy.bool_(False), torch.tensor(False), sympy.false])
def test_a_false_of_any_library_is_a_verdict(false):
    assert result_of(false) == Score(0.0, False) and result_of(Score(0.5, false)) == Score(0.5, False)


@pytest.mark.parametrize(
    "half",
    [
        *(0.5, sympy.Rational(1, 2), Decimal("0.5"), Fraction(1, 2), numpy.float32(0.5), numpy.array([0.5])),
        *(torch.tensor(0.5), torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True)),
    ],
)
def test_a_number_of_any_library_is_a_plain_float(half):
    for result in (half, Score(half)):
        found = result_of(result)
        assert found == Score(0.5) and type(found.value) is float


def test_a_turn_that_is_not_rewarded_has_no_number():
    found = result_of(Score(1, turn_values=(None, numpy.float32(0))), turns=2)
    assert isinstance(found, Score) and found.turn_values == (None, 0.0)


def test_grades_and_turn_values_are_made_plain():
    found = result_of(Score(1, True, turn_values=numpy.array([0.5, 2.0]), grade=numpy.int64(2)), turns=2, grades=3)
    assert found == Score(1.0, True, (0.5, 2.0), grade=2)
    assert isinstance(found, Score) and type(found.grade) is int and type(found.turn_values[0]) is float
    assert result_of(Score(0.0, grade=torch.tensor(1))) == Score(0.0, grade=1)
    given = Score(0.0, token_values={numpy.int64(3): numpy.float32(0.5)})
    assert result_of(given) == Score(0.0, token_values={3: 0.5})


def test_a_mapping_with_a_score():
    more = {"acc": numpy.bool_(True), "pred": "5", "parts": Fraction(1, 4), "nan": math.nan, "list": [1]}
    assert result_of({"score": 2, **more}) == Score(2.0, True, metrics={"acc": 1.0, "parts": 0.25})
    assert result_of({"score": torch.tensor(False), "acc": 1.0}) == Score(0.0, False, metrics={"acc": 1.0})


def test_none_is_no_result():
    assert result_of(None) is None


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("1.0", "returned '1.0', expected a number, a bool or a Score"),
        ([1.0], "returned [1.0], expected a number, a bool or a Score"),
        (sympy.Symbol("x"), "returned x, expected a number, a bool or a Score"),
        (sympy.Symbol("x") > 0, "returned x > 0, expected a number, a bool or a Score"),
        (sympy.And(sympy.Symbol("x"), sympy.Symbol("y")), "returned x & y, expected a number, a bool or a Score"),
        ({"reward": 1.0}, "returned {'reward': 1.0}, expected a mapping with 'score'"),
        ({"score": "1"}, "returned {'score': '1'}, expected a number, a bool or a Score"),
        (torch.tensor([0.5, 0.5]), "returned tensor([0.5000, 0.5000]), expected a number, a bool or a Score"),
        (Score(1.0, "yes"), "returned the verdict 'yes', expected a bool or None"),
        (Score(1.0, 0.5), "returned the verdict 0.5, expected a bool or None"),
        (Score(1.0, grade=2.0), "returned the grade 2.0, expected an int of at least 0 and below 3"),
        (Score(1.0, turn_values=(1.0, 2.0)), "returned 2 turn values, expected 1, one per actor turn"),
    ],
)
def test_anything_else_is_told(result, message):
    assert result_of(result, grades=3) == Failure("mine", "invalid", message)


@pytest.mark.parametrize(
    "bad",
    [
        float("nan"),
        float("inf"),
        numpy.float64("nan"),
        Score(1.0, turn_values=(1e400,)),
        Score(1.0, turn_values=(math.nan,)),
        Score(1.0, token_values={0: math.nan}),
    ],
)
def test_numbers_are_finite(bad):
    found = result_of(bad)
    assert isinstance(found, Failure) and found.message.endswith("expected finite numbers")

from __future__ import annotations

import math

import pytest
from pydantic import TypeAdapter

from llmrl.errors import RecipeError
from llmrl.rewards.gains import Gain, improvement, log_headroom, relative_headroom, success, transition

OUTCOMES = [(1, 1), (1, 0), (0, 1), (0, 0)]  # right stays right, is lost, wrong is fixed, stays wrong


@pytest.mark.parametrize(
    ("gain", "values"),
    [
        (lambda before, after: success(after), [1, 0, 1, 0]),
        (improvement, [0, -1, 1, 0]),
        (transition, [0.2, 0, 1, 0]),
    ],
)
def test_the_three_published_kinds_of_help_on_the_four_outcomes(gain, values):
    assert [gain(*outcome) for outcome in OUTCOMES] == values


def test_a_solved_refinement_gains_at_least_so_much_and_another_its_difference():
    assert improvement(0.75, 1.0) == 0.25
    assert improvement(0.75, 1.0, solved=1.0) == 1.0
    assert improvement(1.0, 1.0, solved=1.0) == 1.0
    assert improvement(0.5, 0.75, solved=1.0) == 0.25
    assert improvement(0.75, 0.5, solved=1.0) == -0.25


def test_gains_that_see_saturation_pay_the_last_step_more_than_the_first():
    # -log(1.1 - s): 0.4 to 0.5 is log(0.7 / 0.6), 0.9 to 1 is log(0.2 / 0.1)
    assert log_headroom(0.4, 0.5) == pytest.approx(math.log(7 / 6))
    assert log_headroom(0.9, 1.0) == pytest.approx(math.log(2))
    assert log_headroom(1.0, 0.9) == pytest.approx(-math.log(2))
    assert relative_headroom(0.4, 0.5) == pytest.approx(0.1 / 0.7)
    assert relative_headroom(0.9, 1.0) == pytest.approx(0.5)
    assert relative_headroom(1.0, 0.9) == pytest.approx(-0.1)
    assert relative_headroom(-2.0, 1.0, floor=1e-6) == pytest.approx(1.0)
    assert relative_headroom(1.0, -4.0) == -1.0


@pytest.mark.parametrize("gain", [log_headroom, relative_headroom])
def test_a_score_above_one_is_refused(gain):
    with pytest.raises(ValueError, match="leaves no headroom"):
        gain(1.5, 2.0)


def of_both(before, after, prompt):
    return 0.0


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("improvemnt", "did you mean 'improvement'"),
        ({"transition": {"fixd": 1}}, "did you mean 'fixed'"),
        (f"{__name__}:of_both", "takes before, after, prompt; expected before, after, or both"),
    ],
)
def test_a_gain_that_cannot_be_used_is_refused_in_words(spec, told):
    with pytest.raises(RecipeError, match=told):
        TypeAdapter(Gain).validate_python(spec)

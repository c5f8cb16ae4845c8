"""The reward of appraisers, by hand."""

from __future__ import annotations

import asyncio

import pytest
from plain_trees import text

from llmrl.errors import RecipeError
from llmrl.rewards.appraisal import appraisal
from llmrl.rewards.reward import Reward
from llmrl.types import Failure, Score


def scored(said: str, outcome: float | bool = True, **settings) -> Score | Failure:
    one = text("appraisal", said=said)
    text("answer", one, outcome=outcome)
    return asyncio.run(appraisal(said, one, **settings))


@pytest.mark.parametrize(
    ("said", "outcome", "settings", "value", "reward"),
    [
        ("It goes well. [[8]]", True, {}, 0.8, 1 - 0.04),
        ("It goes well. [[8]]", False, {}, 0.8, 1 - 0.64),
        ("[[3]] or rather [[2.5]]", True, {}, 0.25, 1 - 0.5625),
        ("10", True, {}, 1.0, 1.0),
        ("[[1]]", False, {"low": 1, "high": 5}, 0.0, 1.0),
        ("<think>[[9]]</think>[[5]]", True, {}, 0.5, 0.75),
        ("[[5]]", 0.75, {"score": "outcome"}, 0.5, 1 - 0.0625),
    ],
)
def test_numbers_that_are_near_the_outcome_are_paid(said, outcome, settings, value, reward):
    found = scored(said, outcome, **settings)
    assert isinstance(found, Score)
    assert found.value == pytest.approx(reward)
    assert found.metrics == pytest.approx({"value": value, "squared_error": 1 - reward, "parse_failures": 0})
    assert found.correct is None


@pytest.mark.parametrize("said", ["", "well", "[[11]]", "[[-1]]", "[8]", "<think>[[8]]</think> well", "<think>[[8]]"])
def test_what_holds_no_number_is_counted_and_paid_as_the_recipe_says(said):
    found = scored(said, unreadable=-0.5)
    assert isinstance(found, Score)
    assert (found.value, found.outcome, found.metrics) == (-0.5, "unreadable", {"parse_failures": 1})


def test_what_its_answer_lost_is_lost():
    one = text("appraisal", said="[[5]]")
    assert isinstance(asyncio.run(appraisal("[[5]]", one)), Failure)
    text("answer", one, outcome=True).failure = lost = Failure("verifier", "timeout", "")
    assert asyncio.run(appraisal("[[5]]", one)) is lost
    with pytest.raises(ValueError, match="no reward of answer gives one; add a verifier"):
        scored("[[5]]", 0.75)
    with pytest.raises(RecipeError, match="low 5, high 5: expected low < high"):
        Reward.from_spec("appraisal", {"low": 5, "high": 5})

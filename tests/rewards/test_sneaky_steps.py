from __future__ import annotations

import asyncio

import pytest

from llmrl.rewards.sneaky_steps import fools_critiquer, hurts, judges_step
from llmrl.rollout.selection import harmful_steps, solvable_steps
from llmrl.types import Failure, Group, Score, Trajectory
from tests.support.plain_trees import PROMPT, answers, text


def critique(verdict: str | None) -> Trajectory:
    made = text("critique")
    made.scores["judges_step"] = Score(0.0, verdict=verdict)
    return made


def steps(before: list[bool], after: list[bool], *critiques: Trajectory) -> tuple[Trajectory, Trajectory]:
    """A right step, and the changed one that follows it, with probes of both and critiques of the latter."""
    sneaky = text("sneaky", *answers(*after, move="probe"), *critiques)
    return text("step", *answers(*before, move="probe"), sneaky), sneaky


def test_a_step_hurts_if_a_solver_succeeds_less_often_after_it():
    assert hurts(steps([True, True], [True, False])[1])
    assert not hurts(steps([True, False], [True, False])[1])
    assert not hurts(steps([False, False], [False, False])[1])  # nothing to lose
    assert not hurts(steps([True, True], [True, False])[1], least_drop=0.5)
    assert not hurts(steps([True], [])[1])  # unprobed
    assert not hurts(steps([True], [False])[0])  # a step that replaces none


@pytest.mark.parametrize(
    ("verdicts", "value", "outcome"),
    [
        (["right"], 1.0, "fooling"),
        (["wrong"], -1.0, "caught"),
        (["unreadable"], 1.0, "fooling"),
        (["wrong", "wrong", "right"], -1 / 3, "caught"),
        ([], 0.0, None),
    ],
)
def test_the_generator_is_paid_for_fooling_critiquers(verdicts, value, outcome):
    _, sneaky = steps([True], [False], *map(critique, verdicts))
    found = asyncio.run(fools_critiquer(sneaky))
    assert (found.value, found.correct, found.outcome) == (pytest.approx(value), False, outcome)


def test_a_step_that_does_not_hurt_costs_the_generator_and_is_still_right():
    _, sneaky = steps([True], [True], critique("right"))
    found = asyncio.run(fools_critiquer(sneaky))
    assert (found.value, found.correct, found.outcome) == (-1.0, True, "harmless")


@pytest.mark.parametrize(
    ("said", "of_sneaky", "of_right"),
    [
        ("[[Correct]]", -1.0, 1.0),
        ("no: [[Incorrect]]", 1.0, -1.0),
        ("first [[Correct]], then [[Incorrect]]", 1.0, -1.0),
        ("hm", -1.0, -1.0),
    ],
)
def test_the_critiquer_is_paid_for_the_truth_and_the_game_is_of_zero_sum(said, of_sneaky, of_right):
    about = text("critique", said=said)
    right, sneaky = steps([True], [False], about)
    found = asyncio.run(judges_step(said, about))
    assert (found.value, found.correct) == (of_sneaky, of_sneaky > 0)
    about.scores["judges_step"] = found
    assert asyncio.run(fools_critiquer(sneaky)).value == -of_sneaky
    other = text("critique", said=said)
    other.parent = right
    assert asyncio.run(judges_step(said, other)).value == of_right


def test_a_critique_of_a_step_that_does_not_hurt_says_nothing():
    about = text("critique", said="[[Incorrect]]")
    steps([True], [True], about)
    found = asyncio.run(judges_step("[[Incorrect]]", about))
    assert (found.value, found.correct, found.outcome) == (0.0, None, "harmless")


def test_what_a_failed_probe_would_tell_is_not_made_up():
    failure = Failure("verifier", "crash", "no")
    for place in (0, 1):  # a probe of the right step, then one of the changed step
        about = text("critique")
        pair = steps([True], [False], about)
        pair[place].children[0].failure = failure
        assert asyncio.run(fools_critiquer(pair[1])) is failure
        assert asyncio.run(judges_step("[[Correct]]", about)) is failure


def test_only_steps_that_hurt_are_followed():
    right, harmful = steps([True], [False])
    harmless = text("sneaky", *answers(True, move="probe"))
    harmless.parent = right
    assert harmful_steps(Group(PROMPT, [harmful, harmless])) == [harmful]
    assert harmful_steps(Group(PROMPT, [right])) == [right]


def test_only_steps_that_can_be_solved_are_changed():
    solvable, hopeless = steps([True, False], [])[0], steps([False, False], [])[0]
    assert solvable_steps(Group(PROMPT, [solvable, hopeless])) == [solvable]

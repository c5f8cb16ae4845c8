"""Rewards that read trees of trajectories, on trees that are built by hand."""

from __future__ import annotations

import asyncio

import pytest

from llmrl.pieces import resolve
from llmrl.rewards.critiques import refined
from llmrl.rewards.judgements import consistency, integrated
from llmrl.types import Failure, Prompt, Score, Trajectory, Turn

QUESTION = Prompt("1", (1,), "1+1=", {"answer": "2"})
FAILED = Failure("math_verifier", "timeout", "too slow")


def text(said: str, parent: Trajectory | None = None, *, by="actor", correct: bool | None = None, **scores: float):
    """A text that follows another; correct: a verifier's verdict; scores: other rewards' values."""
    found = Trajectory(QUESTION, [Turn(by, [1])], "stop", said, author=by, move=by, parent=parent)
    found.scores = {name: Score(value) for name, value in scores.items()}
    if correct is not None:
        found.scores["math_verifier"] = Score(float(correct), correct)
    if parent is not None:
        parent.children.append(found)
    return found


def value(function, trajectory, **settings):
    piece = resolve({function.__name__: settings}, {function.__name__: function}, key="rewards", what="reward")
    found = asyncio.run(piece({"trajectory": trajectory}))
    return found.value if isinstance(found, Score) else found


@pytest.mark.parametrize(("before", "after", "value_of_difference"), [(1, 1, 0), (1, 0, -1), (0, 1, 1), (0, 0, 0)])
def test_a_critique_is_worth_what_the_refinement_gains(before, after, value_of_difference):
    critique = text("try again", text("3", correct=bool(before)), by="critiquer")
    text("2", critique, correct=bool(after))
    assert value(refined, critique) == after
    assert value(refined, critique, gain="improvement") == value_of_difference
    kept = {"transition": {"kept": 0.25}}
    assert value(refined, critique, gain=kept) == {(1, 1): 0.25, (0, 1): 1.0}.get((before, after), 0.0)


def test_several_refinements_are_averaged_and_failed_ones_left_out():
    critique = text("try again", text("3", correct=False), by="critiquer")
    for correct in (True, False, False):
        text("2", critique, correct=correct)
    text("2", critique).failure = FAILED
    assert value(refined, critique) == pytest.approx(1 / 3)


def test_a_named_score_is_read_in_place_of_the_verdict():
    critique = text("check x=0", text("x", passed=0.25, correct=False), by="critiquer")
    text("x+1", critique, passed=0.75, correct=False)
    assert value(refined, critique, score="passed") == 0.75
    assert value(refined, critique, score="passed", gain="improvement") == 0.5


def test_a_failure_is_passed_on_and_never_a_zero():
    draft = text("3", correct=False)
    critique = text("try again", draft, by="critiquer")
    assert value(refined, critique) is None  # nothing follows
    text("2", critique).failure = FAILED
    assert value(refined, critique) == FAILED
    text("2", critique, correct=True)
    draft.failure = FAILED
    assert value(refined, critique) == 1.0
    assert value(refined, critique, gain="improvement") == FAILED


def test_a_score_that_is_not_there_is_refused_by_name():
    critique = text("try again", text("3"), by="critiquer")
    text("2", critique, f1=0.5)
    with pytest.raises(ValueError, match="reads the score 'rouge' of actor, which has f1"):
        value(refined, critique, score="rouge")
    with pytest.raises(ValueError, match="no reward of actor gives one; add a verifier"):
        value(refined, critique)


def test_a_step_and_its_judgements_share_the_outcome():
    """z = 1 and s = 1, 1, -1: R = 4/3, and the judgements get R s."""
    step = text("2", correct=True)
    judgements = [text(said, step, by="judge") for said in ("[[Correct]]", "yes: [[Correct]]", "[[Wrong]]")]
    assert value(integrated, step) == pytest.approx(4 / 3)
    assert [value(consistency, one) for one in judgements] == pytest.approx([4 / 3, 4 / 3, -4 / 3])
    found = asyncio.run(consistency(judgements[2]))
    assert isinstance(found, Score) and (found.verdict, found.correct) == ("wrong", False)


def test_an_unreadable_judgement_counts_nothing_for_the_step_and_is_paid_by_the_setting():
    step = text("3", correct=False)
    judgements = [text(said, step, by="judge") for said in ("[[Wrong]]", "hm", "[[Correct]] <think>or", "[[Wrong]]")]
    # z = 0, s = -1, 0, 1, -1 (an opened thought leaves the verdict before it)
    assert value(integrated, step) == pytest.approx(-1 / 4)
    assert [value(consistency, one) for one in judgements] == pytest.approx([0.25, -2.0, -0.25, 0.25])
    assert value(consistency, judgements[1], unreadable=-1.0) == -1.0


def test_the_outcome_is_that_of_the_last_answer_of_the_same_author():
    first = text("carry 1")
    second = text("so 2", first, correct=True)
    text("[[Wrong]]", first, by="judge")
    text("[[Correct]]", second, by="judge")
    assert value(integrated, first) == 1 - 1
    assert value(integrated, second) == 1 + 1
    assert value(integrated, text("2", correct=True)) is None  # nobody judges it
    second.failure = FAILED
    assert value(integrated, first) == FAILED

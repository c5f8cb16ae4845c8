"""Metrics of critiques and refinements, worked out by hand."""

from __future__ import annotations

import random

import pytest
from trees import all_of, answer, critique

from llmrl.evaluation.critique import draft_of, intervals, judged_wrong, outcome_of, rates, tally, total, vote_tally
from llmrl.types import Trajectory


def text_of(trajectory: Trajectory) -> str | None:
    return trajectory.text or None


def test_wrong_is_the_positive_class_and_an_unreadable_verdict_agrees_with_nothing():
    right, wrong = answer("7"), answer("8")
    for verdict in ("right", "right", "right", "wrong", "unreadable"):
        critique(verdict, right)
    for verdict in ("wrong", "wrong", "right", "unreadable", "unreadable"):
        critique(verdict, wrong)
    found = rates(tally(all_of(right, wrong)))
    assert found["verdict_accuracy"] == 5 / 10
    assert found["verdict_precision"] == pytest.approx(2 / 3)  # of 3 that say wrong
    assert found["verdict_recall"] == 2 / 5  # of all 5 critiques of the wrong draft, readable or not
    assert found["verdict_f1"] == pytest.approx(2 * (2 / 3) * 0.4 / (2 / 3 + 0.4)) == pytest.approx(4 / 8)
    assert (found["verdicts_unreadable"], found["verdicts_alike"]) == (0.3, 0.4)


def test_the_share_of_critiques_that_say_right_is_a_chance_with_a_calibration():
    drafts = [answer(text) for text in ("7", "7", "8", "8")]
    says = [["right"] * 3 + ["wrong"], ["right", "right", "right", "wrong", "unreadable"], ["wrong"], ["unreadable"]]
    for draft, verdicts in zip(drafts, says, strict=True):
        for verdict in verdicts:
            critique(verdict, draft)
    found = rates(tally(all_of(*drafts)))
    # shares 3/4, 3/4 and 0 of three drafts; the last has no readable critique
    assert found["verdict_brier_score"] == pytest.approx((0.25**2 + 0.25**2 + 0) / 3)
    assert found["verdict_calibration_error"] == pytest.approx((0.25 + 0.25) / 3)


def test_a_calibrated_share_has_no_calibration_error_and_still_a_brier_score():
    drafts = [answer(text) for text in ("7", "8")]
    for draft in drafts:
        for verdict in ("right", "wrong"):
            critique(verdict, draft)
    found = rates(tally(all_of(*drafts)))
    assert (found["verdict_calibration_error"], found["verdict_brier_score"]) == (0.0, 0.25)


def refined(draft: Trajectory, *texts: str) -> None:
    """Each text is a refinement after a critique of its own."""
    for text in texts:
        answer(text, parent=critique("wrong", draft))


def test_the_four_outcomes_and_what_they_make():
    right, wrong = answer("7"), answer("8")
    refined(right, "7", "7", "9")
    refined(wrong, "7", "8", "9", "!", "9")
    found = rates(tally(all_of(right, wrong), text_of))
    assert {name: found[name] for name in found if "_to_" in name} == {
        "right_to_right": 2 / 7,
        "right_to_wrong": 1 / 7,
        "wrong_to_right": 1 / 7,
        "wrong_to_wrong": 3 / 7,  # the one that failed is left out
    }
    assert (found["accuracy_before"], found["accuracy_after"]) == (3 / 7, 3 / 7)
    assert (found["refinement_gain"], found["critique_utility"]) == (0.0, 0.0)
    assert found["refinements_changed"] == 4 / 7  # 9 of the right one; 7, 9 and 9 of the wrong one
    assert "refinements_changed" not in rates(tally(all_of(right, wrong)))


def test_critiques_are_worth_what_they_add_to_answering_anew():
    first, second, third = answer("8"), answer("8"), answer("8")
    refined(first, "7", "7", "8", "7")
    answer("7", parent=first)
    answer("8", parent=first)
    refined(second, "8")
    answer("7", parent=second)
    refined(third, "7")  # nobody answers it anew without a critique
    found = rates(tally(all_of(first, second, third)))
    assert found["critique_utility"] == pytest.approx(((3 / 4 - 1 / 2) + (0 - 1)) / 2)
    assert found["refinement_gain"] == pytest.approx(6 / 9)


def test_a_second_round_refines_the_first_refinement():
    draft = answer("8")
    first = answer("9", parent=critique("wrong", draft))
    second = answer("7", parent=critique("wrong", first))
    assert (outcome_of(draft), outcome_of(first), outcome_of(second)) == (None, "wrong_to_wrong", "wrong_to_right")
    assert draft_of(second) is first
    assert rates(tally([second]))["accuracy_after"] == 1.0
    failed = answer("!")
    assert draft_of(answer("7", parent=critique("wrong", failed))) is None


def test_a_critique_of_what_nobody_judged_has_no_truth():
    unjudged = answer("7")
    unjudged.scores = {}
    critique("right", unjudged)
    assert rates(tally(all_of(unjudged))) == {}


def test_the_filtered_vote_drops_what_is_judged_wrong_and_is_plain_if_nothing_is_left():
    drafts = [answer(text) for text in ("8", "8", "7", "9")]
    for draft, verdicts in zip(drafts, (("wrong",), ("wrong", "right"), ("right",), ("unreadable",)), strict=True):
        for verdict in verdicts:
            critique(verdict, draft)
    assert [judged_wrong(draft) for draft in drafts] == [True, False, False, False]
    found = rates(vote_tally(drafts, text_of))
    assert found == {
        "maj@1": 1 / 4,
        "filtered_maj@1": 1 / 4,  # alone, the one that is judged wrong stays
        "maj@2": (0 + 1 / 2) / 2,  # 8 8; 7 9
        "filtered_maj@2": (0 + 1 / 2) / 2,
        "maj@4": 0.0,  # 8 has two of four votes
        "filtered_maj@4": pytest.approx(1 / 3),  # 8, 7 and 9 have one each
    }
    for draft in drafts:
        for _ in range(3):
            critique("wrong", draft)
    assert rates(vote_tally(drafts, text_of))["filtered_maj@4"] == 0.0  # the plain vote


def test_votes_are_taken_up_to_16_of_drafts_that_have_a_verdict():
    drafts = [answer("7" if place % 2 else "8") for place in range(20)] + [answer("!")]
    assert [name for name in rates(vote_tally(drafts, text_of)) if name.startswith("maj")] == [
        f"maj@{k}" for k in (1, 2, 4, 8, 16)
    ]
    assert vote_tally([answer("!")], text_of) == {}


def test_tallies_of_questions_add_up_to_that_of_all():
    trees = [answer("7"), answer("8")]
    refined(trees[0], "9")
    refined(trees[1], "7", "7")
    assert rates(total(tally(all_of(one)) for one in trees)) == rates(tally(all_of(*trees)))


def test_the_interval_of_a_share_is_as_wide_as_its_standard_error_says():
    draws = random.Random(3)
    tallies = []
    for _ in range(400):
        draft = answer("8")
        refined(draft, "7" if draws.random() < 0.5 else "8")
        tallies.append(tally(all_of(draft)))
    share = rates(total(tallies))["accuracy_after"]
    error = (share * (1 - share) / len(tallies)) ** 0.5
    low, high = intervals(tallies)["accuracy_after"]
    assert low == pytest.approx(share - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(share + 1.96 * error, abs=0.3 * error)


def test_critiques_of_one_question_are_drawn_together():
    """Twenty critiques of each of two questions are no more certain than one of each."""
    tallies = []
    for text in ("7", "8"):
        draft = answer(text)
        for _ in range(20):
            critique("right", draft)
        tallies.append(tally(all_of(draft)))
    assert tuple(intervals(tallies)["verdict_accuracy"]) == (0.0, 1.0)
    assert intervals(tallies[:1]) == {}

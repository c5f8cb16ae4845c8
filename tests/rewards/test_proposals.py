from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from llmrl.rewards.proposals import (
    difficulty_and_diversity,
    diversity,
    informativeness,
    learnable,
    proposal_fault,
    regret,
)
from llmrl.rollout.selection import sound_proposals
from llmrl.types import Failure, Group, Trajectory
from tests.support.plain_trees import PROMPT, answers, text


def proposal(*outcomes: float | bool, question: str = "3+4?", answer: str = "9") -> Trajectory:
    made = text("proposal", *answers(*outcomes))
    made.parts = {"question": question, "answer": answer}
    return made


def score(reward, trajectory, *data, **settings):
    return asyncio.run(reward(trajectory, *data, **settings))


@pytest.mark.parametrize(
    ("question", "answer", "fault"),
    [
        ("3+4?", "7", None),
        ("", "7", "no_question"),
        (None, "7", "no_question"),
        ("3+4?", " ", "no_answer"),
        ("3+4?", None, "no_answer"),
        ("7 apples, how many?", "7", "answer_in_question"),
        ("3+4?", "it is 3+4? 7", "question_in_answer"),
        (r"why \boxed{7}?", "8", "box_in_question"),
    ],
)
def test_a_proposal_is_checked_for_ways_around_its_purpose(question, answer, fault):
    assert proposal_fault(question, answer) == fault


@pytest.mark.parametrize(
    ("agreeing", "others", "value"),
    [(0, 4, 0.0), (1, 3, 0.0), (2, 2, 1.0), (3, 1, 1.0), (4, 0, 0.0)],
)
def test_a_question_is_learnable_if_more_than_one_but_not_all_agree(agreeing, others, value):
    # 1 < number of the most frequent answer < n, for n = 4
    assert score(learnable, proposal(*[1.0] * agreeing, *[0.0] * others)).value == value


def test_for_programs_one_right_answer_is_enough():
    once = proposal(True, False, False)
    assert score(learnable, once, least=1).value == 1.0
    assert score(learnable, once).value == 0.0


def test_a_question_that_nobody_answered_earns_nothing_and_says_so():
    for reward in (learnable, regret):
        found = score(reward, proposal())
        assert (found.value, found.outcome) == (0.0, "unanswered")


def test_a_failure_among_the_answers_is_the_questions_failure_and_no_zero():
    failure = Failure("verifier", "timeout", "late")
    for reward, data in ((learnable, ()), (regret, ()), (difficulty_and_diversity, ([],))):
        asked = proposal(True, False)
        asked.children[1].failure = failure
        assert score(reward, asked, *data) is failure


def test_regret_is_what_the_best_answer_earns_above_the_others():
    rewards = [1.0, 0.0, 0.5, 0.5]
    assert score(regret, proposal(*rewards)).value == 1.0
    assert score(regret, proposal(*rewards), kind="advantage").value == 0.5
    assert score(regret, proposal(*rewards), kind="variance").value == pytest.approx(0.125)


def test_informativeness_is_nothing_where_all_rewards_are_the_same():
    assert informativeness([1.0, 0.0, 0.0], "range") == 1
    assert informativeness([1.0, 0.0, 0.0], "advantage") == pytest.approx(2 / 3)
    assert informativeness([1.0, 0.0, 0.0], "variance") == pytest.approx(2 / 9)
    assert all(informativeness([0.3, 0.3], kind) == 0 for kind in ("range", "advantage", "variance"))


@pytest.mark.parametrize(
    ("right", "wrong", "value"),
    [
        (2, 4, 1.1 - 1 / 3 + 0.2),  # p = 1/3, d = 1: .9667
        (1, 5, 0.0),  # p = 1/6, at most .2
        (6, 0, 0.1 + 0.2),  # p = 1 is allowed for the one who asks
        (0, 6, 0.0),
    ],
)
def test_hard_questions_that_can_be_answered_earn_most(right, wrong, value):
    found = score(difficulty_and_diversity, proposal(*[True] * right, *[False] * wrong), [])
    assert found.value == pytest.approx(value)
    assert found.metrics == {"solved": pytest.approx(right / 6), "diversity": 1.0}


def test_a_fault_makes_a_question_unsolved_and_is_counted():
    found = score(difficulty_and_diversity, proposal(True, True, False, question="9 or 8?"), [])
    assert (found.value, found.outcome, found.metrics["solved"]) == (0.0, "answer_in_question", 0.0)


def test_diversity_is_the_share_of_earlier_questions_that_are_unlike_this_one():
    # sets of words and signs: {3, +, 4, ?} has 4 of 4 in common with its repetition, 3 of 5 with 3+5?
    assert diversity("3+4?", ["4+3?", "3+5?", "1-2?", "3 + 4 ?"]) == 0.5
    assert diversity("3+4?", ["3+5?"], similar=0.5) == 0.0
    assert diversity("3+4?", []) == 1.0


def test_only_the_last_questions_count_and_too_little_diversity_is_worth_nothing():
    earlier = [{"question": "3+4?"}] * 7 + [{"question": "1-2?"}] * 3 + [{"answer": "unparsable"}]
    asked = proposal(True, False)
    assert score(difficulty_and_diversity, asked, earlier).value == 0.0  # d = .3, which is not above .3
    found = score(difficulty_and_diversity, asked, earlier, last=4)
    assert found.metrics["diversity"] == 0.75
    assert found.value == pytest.approx(1.1 - 0.5 + 0.2 * 0.75)


def test_proposals_with_a_fault_are_not_asked():
    sound, telling = proposal(), proposal(question="9 or 8?")
    assert sound_proposals(Group(PROMPT, [sound, telling])) == [sound]


def test_every_fault_has_a_name_of_its_own():
    cases = [("", ""), ("a", ""), ("ab", "b"), ("a", "ab"), (r"\boxed{a}", "c")]
    assert set(Counter(proposal_fault(*case) for case in cases).values()) == {1}

from __future__ import annotations

import math
from itertools import permutations

import pytest

from llmrl.rollout.selection import (
    balanced,
    best_and_worst,
    best_of,
    everything,
    followed,
    halves,
    mixed_outcomes,
    right,
    solved_between,
    triage,
    validated_pair,
    wrong,
)
from llmrl.types import ACTOR, Failure, Group, Prompt, Score, Trajectory, Turn

PROMPT = Prompt("p", (1,), "?", {})


def group(*scored: tuple[float, bool | None]) -> Group:
    """Trajectories of these rewards and verdicts, the text of each its place."""
    trajectories = []
    for place, (reward, correct) in enumerate(scored):
        scores = {"verifier": Score(reward, correct)}
        trajectories.append(
            Trajectory(PROMPT, [Turn(ACTOR, [2])], "stop", text=str(place), scores=scores, reward=reward)
        )
    return Group(PROMPT, trajectories)


def texts(trajectories: list[Trajectory]) -> str:
    return "".join(trajectory.text for trajectory in trajectories)


@pytest.mark.parametrize(
    ("right", "wrong", "kept"),
    [(1, 5, ""), (1, 4, ""), (2, 4, "012345"), (5, 1, "012345"), (6, 0, ""), (0, 6, "")],  # 1/5 is not above .2
)
def test_groups_that_are_solved_now_and_then(right, wrong, kept):
    outcomes = group(*[(1.0, True)] * right, *[(0.0, False)] * wrong)
    assert texts(solved_between(outcomes, above=0.2)) == kept


def test_texts_that_nothing_follows_are_dropped():
    asked = group((0.0, None), (0.0, None))
    asked.trajectories[1].children.append(asked.trajectories[0])
    assert texts(followed(asked)) == "1"


def test_everything_keeps_all():
    assert texts(everything(group((0.0, False), (1.0, True), (0.0, False)))) == "012"


@pytest.mark.parametrize(
    ("scored", "kept"),
    [
        ([(1.0, True), (0.0, False), (1.0, True)], "012"),
        ([(1.0, True), (1.0, True)], ""),
        ([(0.0, False), (0.0, False)], ""),
        # a length term makes the rewards differ, and both are right all the same
        ([(1.0, True), (0.7, True)], ""),
        # rewards that happen to be equal do not hide that one is right and one is wrong
        ([(0.5, True), (0.5, False)], "01"),
        # where no verifier speaks, the reward is all there is
        ([(0.2, None), (0.3, None)], "01"),
        ([(0.2, None), (0.2, None)], ""),
        ([(1.0, True)], ""),
    ],
)
def test_mixed_outcomes_keeps_whole_groups_with_contrast(scored, kept):
    assert texts(mixed_outcomes(group(*scored))) == kept


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, "1"),  # 0.9 at places 1 and 3: the earlier one
        ({"count": 2}, "13"),
        ({"count": 3}, "134"),
        ({"count": 10}, "1340"),  # 0.0 does not pass: above, not at
        ({"count": 10, "min_reward": 0.5}, "13"),
        ({"count": 10, "min_reward": -2.0}, "134025"),
        ({"min_reward": 0.9}, ""),
    ],
)
def test_best_of(settings, kept):
    rewards = [0.1, 0.9, 0.0, 0.9, 0.5, -1.0]
    assert texts(best_of(group(*((reward, None) for reward in rewards)), **settings)) == kept


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        ([0.1, 0.9, 0.0, 0.9, 0.0], "12"),
        ([0.0, 1.0], "10"),
        ([0.5, 0.5, 0.5], ""),
        ([1.0], ""),
        ([], ""),
    ],
)
def test_best_and_worst_are_a_pair(rewards, kept):
    assert texts(best_and_worst(group(*((reward, None) for reward in rewards)))) == kept


def test_a_cost_of_length_chooses_among_rewards_and_changes_none():
    long, short, wrong = (
        Trajectory(PROMPT, [Turn(ACTOR, [2] * length)], "stop", text=text, reward=reward)
        for length, text, reward in ((9, "long", 1.0), (2, "short", 0.9), (1, "wrong", 0.0))
    )
    scored = Group(PROMPT, [long, short, wrong])
    assert [one.text for one in best_and_worst(scored)] == ["long", "wrong"]
    assert [one.text for one in best_and_worst(scored, length_cost=0.1)] == ["short", "wrong"]
    # the one that is left as the worst has the higher reward: no pair
    assert best_and_worst(Group(PROMPT, [long, short]), length_cost=0.1) == []


@pytest.mark.parametrize(
    ("static_value", "kept", "kept_if_unsolved_are_dropped"),
    [
        (1.0, "", ""),
        (1.2, "", ""),  # more than the verdict is rewarded
        (0.99, "01", "01"),
        (0.5, "01", "01"),
        (0.0, "01", ""),
        (-0.5, "01", ""),
        (math.nan, "01", "01"),  # not measured
    ],
)
def test_triage_drops_what_was_always_or_never_solved(static_value, kept, kept_if_unsolved_are_dropped):
    """By the static value alone: what this step's samples say, all right or all wrong, decides nothing."""
    for rewards in ([1.0, 0.0], [1.0, 1.0], [0.0, 0.0]):
        one = group(*((reward, reward > 0) for reward in rewards))
        assert texts(triage(one, static_value)) == kept
        assert texts(triage(one, static_value, drop_unsolved=True)) == kept_if_unsolved_are_dropped


RIGHT, WRONG, UNKNOWN = (1.0, True), (0.0, False), (0.5, None)
SIX = [WRONG, RIGHT, WRONG, UNKNOWN, WRONG, RIGHT]


@pytest.mark.parametrize(
    ("choose", "scored", "settings", "kept"),
    [
        (balanced, SIX, {}, "0125"),  # two of each, the first ones, in their order
        (balanced, SIX, {"count": 1}, "01"),
        (balanced, SIX, {"count": 9}, "0125"),
        (balanced, SIX, {"alone": 3}, "0125"),  # no kind is missing
        (balanced, [WRONG, WRONG, UNKNOWN], {}, ""),
        (balanced, [WRONG, WRONG, UNKNOWN], {"count": 2}, ""),
        (balanced, [WRONG, WRONG, UNKNOWN], {"alone": 1}, "0"),
        (balanced, [RIGHT, RIGHT, RIGHT], {"alone": 2, "count": 1}, "01"),
        (balanced, [], {"alone": 2}, ""),
        (right, SIX, {}, "15"),
        (right, SIX, {"count": 1}, "1"),
        (wrong, SIX, {}, "024"),
        (wrong, SIX, {"count": 2}, "02"),
        (wrong, [RIGHT, UNKNOWN], {}, ""),
    ],
)
def test_completions_are_chosen_by_their_verdicts(choose, scored, settings, kept):
    assert texts(choose(group(*scored), **settings)) == kept


@pytest.mark.parametrize("choose", [balanced, right, wrong])
def test_a_choice_by_verdicts_needs_some(choose):
    with pytest.raises(ValueError, match="no reward says whether a completion is right"):
        choose(group(UNKNOWN, UNKNOWN))


@pytest.mark.parametrize(
    ("after_best", "after_worst", "kept"),
    [
        ([True, True, False], [True, False, False], "12"),  # 2/3 of the revisions are right, and 1/3
        ([True, False], [False, True], ""),  # as many: the grades are not validated
        ([False], [True], ""),
        ([0.5, 0.7], [0.5, 0.6], "12"),  # without verdicts the rewards say it
        ([True, None], [False, None], "12"),  # a revision that failed is none
        ([None], [False], ""),
        ([True], [], ""),
    ],
)
def test_a_pair_is_validated_by_what_follows_it(after_best, after_worst, kept):
    critiques = group((0.5, None), (0.9, None), (0.1, None))

    def revision(outcome: bool | float | None) -> Trajectory:
        correct = outcome if isinstance(outcome, bool) else None
        failure = Failure("judge", "timeout", "") if outcome is None else None
        scores = {"verifier": Score(1.0, correct)}
        reward = math.nan if outcome is None else float(outcome)
        return Trajectory(PROMPT, [Turn(ACTOR, [3])], "stop", scores=scores, reward=reward, failure=failure)

    for place, outcomes in ((0, [True]), (1, after_best), (2, after_worst)):
        critiques.trajectories[place].children = [revision(one) for one in outcomes]
    assert texts(validated_pair(critiques)) == kept
    for one in critiques.trajectories:
        one.reward = 0.5
    assert validated_pair(critiques) == []


def test_a_pair_of_halves_is_one_of_the_better_and_one_of_the_worse():
    """Of 4, 3, 2, 1, 0 the middle one is in no pair; which of a half it is depends on the tokens."""
    drawn = [halves(group(*((float(reward), None) for reward in rewards))) for rewards in permutations(range(5))]
    assert {(one.reward, other.reward) for one, other in drawn} <= {(a, b) for a in (4, 3) for b in (1, 0)}
    assert halves(group((1.0, None), (1.0, None))) == halves(group((1.0, None))) == []

"""Metrics of what two authors wrote: each has its own counts and means, and failures are never out of sight."""

from __future__ import annotations

import pytest
import trees

from llmrl.rollout.measure import metrics_of
from llmrl.types import ACTOR, Failure, Group, Prompt, Score, StopReason, Trajectory, Turn

PROMPT = Prompt("p", (1,), "?", {})
CRITIC = "critic"
FAILED = Failure("judge", "timeout", "slow")


def wrote(
    author: str,
    tokens: int,
    reward: float,
    *,
    correct: bool | None = None,
    stop: StopReason = "stop",
    fails: bool = False,
) -> Trajectory:
    own = Turn(author, [2] * tokens, reward=0.5 if author == CRITIC else None)
    made = Trajectory(PROMPT, [own, Turn("environment", [3] * 7)], stop, reward=reward, author=author)
    made.scores = {f"{author}s": Score(reward, correct)}
    made.failure = FAILED if fails else None
    return made


def test_each_author_has_its_own_counts_and_means():
    actors = Group(PROMPT, [wrote(ACTOR, 2, 1.0, correct=True), wrote(ACTOR, 4, 0.0, correct=False, stop="length")])
    critics = [
        Group(PROMPT, [wrote(CRITIC, 1, 3.0, stop="context_full"), wrote(CRITIC, 3, 3.0)], CRITIC),
        Group(PROMPT, [wrote(CRITIC, 8, 6.0), wrote(CRITIC, 9, 9.0, fails=True)], CRITIC),
    ]
    found = metrics_of([actors, *critics], [actors, critics[0]], [ACTOR, CRITIC], seconds=2.0)
    own = {
        "reward": 0.5,
        "reward_std": 0.5,
        "completion_tokens": 3.0,
        "completion_tokens_max": 4.0,
        "truncated": 0.5,
        "groups_mixed": 1.0,
        "groups_sampled": 1.0,
        "groups_kept": 1.0,
        "failures": 0.0,
        "rollout_seconds": 2.0,
        "rollout_tokens_per_second": 3.0,
        "accuracy": 0.5,
        "reward/actors": 0.5,
    }
    other = {
        "reward": 4.0,
        "reward_std": pytest.approx(2**0.5),  # of 3, 3, 6: (1 + 1 + 4) / 3
        "completion_tokens": 4.0,  # and not the environment's
        "completion_tokens_max": 8.0,
        "truncated": pytest.approx(1 / 3),
        "groups_mixed": 0.0,
        "groups_sampled": 2.0,
        "groups_kept": 1.0,
        "failures": 1.0,
        "failures/judge/timeout": 1.0,
        "rollout_seconds": 2.0,
        "rollout_tokens_per_second": 6.0,
        "turn_reward": 0.5,
        "rewarded_turns": 1.0,
        "total_reward": 4.5,
        "turns": 1.0,
        "invalid_actions": 0.0,
        "reward/critics": 4.0,
    }
    assert found == own | {f"critic/{name}": value for name, value in other.items()}


def test_an_author_whose_trajectories_all_failed_has_counts_and_no_means():
    actors = Group(PROMPT, [wrote(ACTOR, 2, 1.0)])
    critics = Group(PROMPT, [wrote(CRITIC, 1, 3.0, fails=True), wrote(CRITIC, 3, 3.0, fails=True)], CRITIC)
    found = metrics_of([actors, critics], [actors], [ACTOR, CRITIC], seconds=2.0)
    assert {name: value for name, value in found.items() if name.startswith("critic/")} == {
        "critic/groups_sampled": 1.0,
        "critic/groups_kept": 0.0,
        "critic/failures": 2.0,
        "critic/failures/judge/timeout": 2.0,
        "critic/rollout_seconds": 2.0,
        "critic/rollout_tokens_per_second": 0.0,
    }
    assert found["failures"] == 0.0 and found["reward"] == 1.0
    # and so has the first author, where only another one's are left to train on
    turned = metrics_of([actors, critics], [actors], [CRITIC, ACTOR], seconds=2.0)
    assert turned["failures"] == 2.0 and "reward" not in turned and turned["actor/reward"] == 1.0


def test_an_author_who_never_wrote_has_no_metrics():
    groups = [Group(PROMPT, [wrote(ACTOR, 2, 1.0)]), Group(PROMPT, [], CRITIC)]
    assert not any(name.startswith("critic/") for name in metrics_of(groups, groups[:1], [ACTOR, CRITIC], 1.0))


def test_other_writers_count_only_where_the_policy_writes_nothing():
    own, other = wrote(ACTOR, 2, 1.0), wrote(ACTOR, 6, 0.0)
    other.writer = "reference"
    found = metrics_of([Group(PROMPT, [own, other])], [], [ACTOR], seconds=1.0)
    assert (found["reward"], found["completion_tokens"]) == (1.0, 2.0)
    alone = metrics_of([Group(PROMPT, [other])], [], [ACTOR], seconds=1.0)
    assert (alone["reward"], alone["completion_tokens"]) == (0.0, 6.0)


def test_texts_that_lack_a_part_are_counted_among_those_that_should_have_some():
    whole, without, other = (trees.answer("8") for _ in range(3))
    whole.parts, without.parts, without.lacks = {"sum": "8", "why": "5+3"}, {"sum": "8"}, ("why",)
    assert metrics_of([Group(PROMPT, [whole, without, other])], [], [ACTOR], seconds=1.0)["parts_missing"] == 0.5
    assert "parts_missing" not in metrics_of([Group(PROMPT, [other])], [], [ACTOR], seconds=1.0)


def test_each_author_of_a_tree_has_the_metrics_of_what_it_wrote():
    draft = trees.answer("8")
    critiques = [trees.critique(verdict, draft) for verdict in ("wrong", "right", "unreadable")]
    refinements = [trees.answer(text, parent=critiques[0]) for text in ("7", "9")]
    groups = [Group(PROMPT, [draft]), Group(PROMPT, refinements), Group(PROMPT, critiques, trees.CRITIQUER)]
    found = metrics_of(groups, groups, [ACTOR, trees.CRITIQUER], seconds=1.0)
    assert (found["accuracy"], found["accuracy_before"], found["accuracy_after"]) == (pytest.approx(1 / 3), 0.0, 0.5)
    assert found["critiquer/verdict_accuracy"] == found["critiquer/verdicts_unreadable"] == pytest.approx(1 / 3)
    assert not [name for name in found if name.startswith("verdict")] and "critiquer/accuracy_after" not in found

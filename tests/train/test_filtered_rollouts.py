"""Own samples above a quantile of all rewards so far."""

from __future__ import annotations

import math

import pytest
from scripted import PARAMS, PROMPTS, Verdicts, make, piece

from llmrl.data.stream import PromptStream
from llmrl.errors import RunStopped
from llmrl.recipe import Rollout
from llmrl.rollout.group_sampling import Evenly
from llmrl.rollout.selection import everything
from llmrl.train.filtered import FilteredRollouts, filtered_rollouts, interpolated_quantile
from llmrl.types import ACTOR, Failure, Group


class Rising(Verdicts):
    """Rewards a question's number, less a tenth of the place in the group; the first of question 1 fails."""

    async def score(self, group: Group) -> None:
        for place, trajectory in enumerate(group.trajectories):
            n = group.prompt.row["n"]
            trajectory.reward = n - place / 10
            if (n, place) == (1, 0):
                trajectory.failure = Failure("reward", "crash", "")


def source(**settings) -> FilteredRollouts:
    collector = make(scorer=Rising())
    rollout = Rollout(prompts_per_step=2, group_size=2, max_refills=settings.pop("max_refills", 0))
    stream = PromptStream(PROMPTS, 0, False)
    return filtered_rollouts(
        stream, collector, Evenly(collector, 2), {ACTOR: piece(everything)}, rollout, lambda seed: PARAMS, **settings
    )


def kept(found) -> list[float]:
    return [round(one.reward, 1) for group in found.groups for one in group.trajectories]


def test_a_quantile_is_linear_between_neighbours():
    assert interpolated_quantile([3.0, 0.0, 1.0], 0.75) == 2.0
    assert interpolated_quantile([5.0], 0.9) == 5.0
    assert interpolated_quantile([], 0.9) == -math.inf


def test_samples_are_kept_that_reach_the_quantile_of_all_rewards_so_far():
    """Rewards 0, -0.1, 0.9 with the median 0; then 2, 1.9, 3, 2.9 besides, with the median 1.9 of seven."""
    own = source(quantile=0.5)
    found = own.collect(0)
    assert kept(found) == [0.0, 0.9]
    assert found.metrics["filtered/floor"] == 0.0
    assert found.metrics["filtered/kept"] == pytest.approx(2 / 3)
    later = own.collect(1)
    assert kept(later) == [2.0, 1.9, 3.0, 2.9]
    assert later.metrics["filtered/floor"] == pytest.approx(1.9)


def test_without_history_each_step_keeps_its_best_share():
    """Of 2, 1.9, 3, 2.9 the two best are kept; with a history of 3 the floor would be the median 1.9."""
    own = source(quantile=0.6, history=0)
    own.collect(0)
    assert kept(own.collect(1)) == [3.0, 2.9]
    recent = source(quantile=0.5, history=1)
    recent.collect(0)
    assert recent.rewards == {ACTOR: [0.9]}


def test_a_reward_at_the_floor_that_earns_nothing_is_dropped():
    found = source(quantile=0.0, above=0.0).collect(0)
    assert kept(found) == [0.9]
    with pytest.raises(RunStopped, match=r"1 rounds reached its quantile 0.9 .* above 2"):
        source(above=2.0).collect(0)
    assert kept(source(above=2.0, max_refills=1).collect(0)) == [3.0]


def test_a_resumed_source_has_the_rewards_of_before():
    whole, first, second = source(quantile=0.5), source(quantile=0.5), source(quantile=0.5)
    whole.collect(0)
    first.collect(0)
    second.load_state_dict(first.state_dict())
    assert kept(second.collect(1)) == kept(whole.collect(1))
    assert second.rewards == whole.rewards

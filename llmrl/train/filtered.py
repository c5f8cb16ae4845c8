"""The policy's own samples with the highest rewards so far, to imitate: filtered behaviour cloning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt

from llmrl.data.stream import PromptStream
from llmrl.errors import RunStopped
from llmrl.pieces import Piece
from llmrl.recipe import Rollout
from llmrl.rollout.collect import Collected, Collector, SampleGroups
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.train.sources_of_rollouts import Rollouts
from llmrl.types import Group

Share = Annotated[float, Field(ge=0.0, le=1.0)]


def filtered_rollouts(
    stream: PromptStream,
    collector: Collector,
    sample_groups: SampleGroups,
    keep: Mapping[str, Piece],
    rollout: Rollout,
    params: Callable[[int], SamplingParams],
    *,
    quantile: Share = 0.9,
    history: NonNegativeInt | None = None,
    above: float = -math.inf,
) -> FilteredRollouts:
    """The current policy's own samples whose reward is at least a quantile of the rewards so far.

        kept: R_i >= quantile of {R_j : samples j of this step, and of the `history` samples before it}, and R_i > above

    R: a trajectory's rewards, summed, those of its environment included. history: how many earlier samples count;
    default: all of the stage; 0: this step alone, so that its best share of 1 - quantile is kept. The quantile is
    interpolated between neighbours. A step of which nothing is left is sampled anew, rollout.max_refills times.
    Sources: online filtered BC beside ArCHer, arXiv 2402.19446, and in LMRL-Gym, arXiv 2311.18232, which keeps the
    best share.
    """
    fresh = Rollouts(stream, collector, sample_groups, keep, rollout, params)
    return FilteredRollouts(fresh, quantile, history, above)


@dataclass
class FilteredRollouts:
    """A source that remembers the rewards of all samples; see filtered_rollouts. rewards: by author, oldest first."""

    fresh: Rollouts
    quantile: float
    history: int | None
    above: float
    rewards: dict[str, list[float]] = field(default_factory=dict)

    def collect(self, seed: int) -> Collected:
        sampled: list[Group] = []
        rounds = self.fresh.rollout.max_refills + 1
        for refill in range(rounds):
            found = self.fresh.collect(seed if refill == 0 else derive_seed(seed, "filtered", refill))
            sampled += found.sampled
            floors = self._floors(found.sampled)
            left = [self._filtered(group, floors[group.author]) for group in found.groups]
            groups = [group for group in left if group.trajectories]
            if groups:
                return Collected(groups, found.metrics | self._metrics(found.groups, groups, floors), sampled)
        raise RunStopped(
            f"learn_from: filtered_rollouts: no trajectory of {rounds} rounds reached its "
            f"quantile {self.quantile} of the rewards so far and a reward above {self.above}"
        )

    def _floors(self, sampled: Sequence[Group]) -> dict[str, float]:
        """The quantile of each author's rewards, those of a round included, which are remembered."""
        floors: dict[str, float] = {}
        for author in dict.fromkeys(group.author for group in sampled):
            own = [group for group in sampled if group.author == author]
            new = [one.total_reward for group in own for one in group.trajectories if not one.failure]
            before = self.rewards.get(author, [])
            floors[author] = interpolated_quantile([*before, *new], self.quantile)
            counted = [*before, *new]
            self.rewards[author] = counted if self.history is None else counted[len(counted) - self.history :]
        return floors

    def _filtered(self, group: Group, floor: float) -> Group:
        left = [one for one in group.trajectories if one.total_reward >= floor and one.total_reward > self.above]
        return replace(group, trajectories=left)

    def _metrics(
        self, before: Sequence[Group], after: Sequence[Group], floors: Mapping[str, float]
    ) -> dict[str, float]:
        """The first author's floor, and the share of all authors' trajectories that reached theirs."""
        left, found = (sum(len(group.trajectories) for group in groups) for groups in (after, before))
        return {"filtered/floor": floors[self.fresh.collector.first], "filtered/kept": left / found}

    def state_dict(self) -> dict[str, Any]:
        return {"fresh": self.fresh.state_dict(), "rewards": {name: [*own] for name, own in self.rewards.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.fresh.load_state_dict(state["fresh"])
        self.rewards = {name: [*own] for name, own in state["rewards"].items()}


def interpolated_quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies, linear between neighbours; -inf of no values."""
    if not values:
        return -math.inf
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (above - below) * (place - math.floor(place))

"""A source that holds another one: the groups of a step, and groups of earlier steps from disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PositiveInt

from llmrl.data.stream import PromptStream
from llmrl.data.trajectory_records import record_of, trajectory_of
from llmrl.engines.ranks import Ranks
from llmrl.errors import RunStopped
from llmrl.marks import replays
from llmrl.pieces import Piece
from llmrl.recipe import Rollout
from llmrl.rollout.collect import Collected, Collector, SampleGroups
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.run_folder.atomic import writing
from llmrl.run_folder.segments import Segments
from llmrl.train.sources_of_rollouts import Rollouts
from llmrl.types import Group

SEGMENTS = 8
WRITER = "replay"
"""Who wrote a completion that an earlier policy sampled for an earlier step."""


@replays
def replayed(
    stream: PromptStream,
    collector: Collector,
    sample_groups: SampleGroups,
    keep: Mapping[str, Piece],
    rollout: Rollout,
    params: Callable[[int], SamplingParams],
    ranks: Ranks,
    replay_folder: Path,
    *,
    capacity: PositiveInt = 1000,
    share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5,
) -> Replayed:
    """The current policy's own samples, and scored groups of earlier steps beside them, drawn evenly.

    share: of all groups of a step, those of earlier steps; fewer while there are not as many. capacity: the groups that
    are kept on disk, and in checkpoints by reference; the oldest go first. Their tokens keep the log-probabilities of
    the policy that sampled them, so a loss with a ratio has to read rollout_logprobs.
    """
    records = Segments(replay_folder, per_segment=max(1, -(-capacity // SEGMENTS)), writes=ranks.is_first)
    return Replayed(Rollouts(stream, collector, sample_groups, keep, rollout, params), records, ranks, capacity, share)


@dataclass
class Replayed:
    """A source of new groups and of groups of earlier steps; see replayed."""

    fresh: Rollouts
    records: Segments
    ranks: Ranks
    capacity: int
    share: float
    _saved: list[int] = field(default_factory=list)

    def collect(self, seed: int) -> Collected:
        found = self.fresh.collect(seed)
        held = range(self.records.first, self.records.count)
        wanted = min(len(held), round(len(found.groups) * self.share / (1 - self.share)))
        random = np.random.default_rng(derive_seed(seed, "replayed"))
        drawn = [self._group(int(number)) for number in random.choice(held, wanted, replace=False)] if wanted else []
        self._add(found.groups)
        ages, now = _versions(drawn), max(_versions(found.groups), default=0)
        metrics = {"replay/trajectories": float(sum(len(group.trajectories) for group in drawn))}
        if ages:
            metrics["replay/staleness"] = now - sum(ages) / len(ages)
        return Collected([*found.groups, *drawn], found.metrics | metrics, found.sampled)

    def _add(self, groups: list[Group]) -> None:
        fault = ""
        try:
            with writing("the replay", self.records.folder.parent.parent):
                self.records.append([_record(group) for group in groups])
        except RunStopped as stopped:
            fault = str(stopped)
        if faults := [one for one in self.ranks.gather(fault, "writing a replay") if one]:
            raise RunStopped(faults[0])
        self.records.forget(self.records.count - self.capacity)

    def _group(self, number: int) -> Group:
        """A group of an earlier step, whose policy is not the one in training."""
        record = self.records.read(number)
        trajectories = [trajectory_of(one) for one in record["trajectories"]]
        for one in trajectories:
            one.writer = WRITER
        return Group(trajectories[0].prompt, trajectories, record["author"], known=record["known"])

    def state_dict(self) -> dict[str, Any]:
        """The position; records stay on disk while one of the last two states that were asked for names them."""
        self.records.flush()
        self._saved = [*self._saved[-1:], self.records.first]
        self.records.prune(self._saved[0])
        return {"fresh": self.fresh.state_dict(), "first": self.records.first, "count": self.records.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.fresh.load_state_dict(state["fresh"])
        if self.ranks.is_first:
            self.records.rewind(state["first"], state["count"])
        self.ranks.barrier("going back to a replay's records")
        if not self.ranks.is_first:
            self.records.rewind(state["first"], state["count"])
        self._saved = [state["first"]]


def _versions(groups: Sequence[Group]) -> list[int]:
    """The policy that sampled each turn."""
    return [turn.policy_version for group in groups for one in group.trajectories for turn in one.own_turns]


def _record(group: Group) -> dict[str, Any]:
    trajectories = [record_of(one) for one in group.trajectories]
    return {"author": group.author, "known": group.known, "trajectories": trajectories}

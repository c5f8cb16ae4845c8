"""A replay: trajectories of earlier steps on disk, drawn evenly or by how wrong the critic was about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmrl.data.trajectory_records import record_of, trajectory_of
from llmrl.engines.ranks import Ranks
from llmrl.errors import RunStopped
from llmrl.recipe_replay import Replayed
from llmrl.run_folder.atomic import writing
from llmrl.run_folder.segments import Segments
from llmrl.types import Trajectory

SEGMENTS = 8
"""How many segments hold a full replay."""


@dataclass(frozen=True)
class Drawn:
    """A unit of a replay that was drawn. record: its trajectory's number; turn: of the author's turns, -1 for the whole
    trajectory; weight: that makes a mean over what is drawn one over all units."""

    unit: int
    record: int
    turn: int
    weight: float


class Replay:
    """The last `settings.capacity` trajectories, in segments below `folder`, and the priorities of their units.

    A unit is a trajectory, or a turn of one. All ranks hold the same numbers, and the first one writes. referenced:
    whether checkpoints name its records, which then stay until none of them does.
    """

    def __init__(self, settings: Replayed, folder: Path, ranks: Ranks, *, referenced: bool):
        self.settings = settings
        self.ranks, self._referenced = ranks, referenced
        per_segment = max(1, -(-settings.capacity // SEGMENTS))
        self.records = Segments(folder, per_segment=per_segment, writes=ranks.is_first)
        self.first_unit = 0
        self._owners = np.zeros(0, np.int64)
        self._turns = np.zeros(0, np.int64)
        self._priorities = np.zeros(0, np.float64)
        self._new = 0

    @property
    def size(self) -> int:
        """How many trajectories there are."""
        return self.records.count - self.records.first

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Append trajectories, whose units get the highest priority so far; the oldest go where there are too many.

        Raises RunStopped if the disk is full.
        """
        before, fault = self.records.count, ""
        try:
            with writing(f"the replay {self.records.folder.name}", self.records.folder.parent.parent.parent):
                self.records.append([record_of(one) for one in trajectories])
        except RunStopped as stopped:
            fault = str(stopped)
        if faults := [one for one in self.ranks.gather(fault, "writing a replay") if one]:
            raise RunStopped(faults[0])
        turns = [range(len(one.own_turns)) if self.settings.by == "turns" else (-1,) for one in trajectories]
        owners = [before + place for place, of_one in enumerate(turns) for _ in of_one]
        highest = self._priorities.max(initial=0.0) or 1.0
        self._owners = np.append(self._owners, np.array(owners, np.int64))
        self._turns = np.append(self._turns, np.array([turn for of_one in turns for turn in of_one], np.int64))
        self._priorities = np.append(self._priorities, np.full(len(owners), highest))
        self._new = len(owners)
        self.records.forget(self.records.count - self.settings.capacity)
        if not self._referenced:
            self.records.prune(self.records.first)
        gone = int(np.searchsorted(self._owners, self.records.first))
        self._owners, self._turns = self._owners[gone:], self._turns[gone:]
        self._priorities, self.first_unit = self._priorities[gone:], self.first_unit + gone

    def draw(self, seed: int) -> list[Drawn]:
        """`settings.batch` units, some of them again: a share of those that were added last, the others of all.

        p_i = priority_i^alpha / sum_j priority_j^alpha        w_i = (min_j p_j / p_i)^beta
        """
        random = np.random.default_rng(seed)
        units, chosen = len(self._owners), self.settings.prioritised
        fresh = round(self.settings.batch * self.settings.fresh)
        chances = np.full(units, 1 / units)
        weights = np.ones(units)
        if chosen is not None:
            raised = self._priorities**chosen.alpha
            chances = raised / raised.sum()
            weights = (chances.min() / chances) ** chosen.beta
        new = random.integers(max(0, units - self._new), units, fresh)
        old = random.choice(units, self.settings.batch - fresh, p=chances)
        found = [(place, 1.0) for place in new] + [(place, weights[place]) for place in old]
        return [
            Drawn(self.first_unit + int(place), int(self._owners[place]), int(self._turns[place]), float(weight))
            for place, weight in found
        ]

    def trajectory(self, record: int) -> Trajectory:
        """The trajectory of that number."""
        return trajectory_of(self.records.read(record))

    def prioritise(self, units: Sequence[int], errors: Sequence[float]) -> None:
        """Give units that were drawn the priority of their errors."""
        if self.settings.prioritised is not None:
            for unit, error in zip(units, errors, strict=True):
                self._priorities[unit - self.first_unit] = abs(error) + self.settings.prioritised.floor

    def state_dict(self) -> dict[str, Any]:
        """The position and the priorities; the records stay where they are, and have reached the disk."""
        self.records.flush()
        arrays = {"owners": self._owners, "turns": self._turns, "priorities": self._priorities}
        return {
            "first": self.records.first,
            "count": self.records.count,
            "first_unit": self.first_unit,
            "new": self._new,
            **{name: torch.from_numpy(array) for name, array in arrays.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where `state_dict` was; raises RecipeError if its records are gone."""
        if self.ranks.is_first:
            self.records.rewind(state["first"], state["count"])
        self.ranks.barrier("going back to a replay's records")
        if not self.ranks.is_first:
            self.records.rewind(state["first"], state["count"])
        self.first_unit, self._new = state["first_unit"], state["new"]
        self._owners, self._turns = state["owners"].numpy(), state["turns"].numpy()
        self._priorities = state["priorities"].numpy()

"""The critic of a role: its settings, its learner, and the rows that it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmrl.algorithm import Algorithm
from llmrl.batch import Batch
from llmrl.data.contexts import CriticRows, context_ids
from llmrl.errors import RunStopped
from llmrl.recipe_critic import Critic as CriticSettings
from llmrl.train.learner import Learner
from llmrl.train.micro_batches import CreditedBatch, MetricSums, Outputs
from llmrl.train.movement import Movement
from llmrl.train.objectives import ValueObjective
from llmrl.train.references import MovingTrained
from llmrl.train.replay import Replay
from llmrl.types import Credit, Group


@dataclass
class ValueFunction:
    """The critic: `learner` is its own, or None where the policy's learner trains it too.

    slow: a copy that follows its weights, where a piece reads the copy's outputs. replay: the trajectories that it
    learns from in place of the step's own batch.
    """

    settings: CriticSettings
    learner: Learner | None = None
    slow: MovingTrained | None = None
    replay: Replay | None = None
    _movement: Movement | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, settings: CriticSettings, learner: Learner | None, algorithm: Algorithm) -> ValueFunction:
        """The critic with what its algorithm reads of it."""
        follows = learner is not None and algorithm.has_target
        return cls(settings, learner, MovingTrained(learner, 1, settings.target_mix) if learner and follows else None)

    def open_replay(self, folder: Path, has_checkpoints: bool) -> None:
        """Begin the replay that the settings ask for, with its records in `folder`."""
        if self.settings.replay and self.learner:
            self.replay = Replay(self.settings.replay, folder, self.learner.ranks, referenced=has_checkpoints)

    def with_context(self, batch: Batch, groups: Sequence[Group], tokenizer: Any) -> Batch:
        """The batch with the tokens that the critic alone reads, if the recipe names a context.

        groups: those that the batch was packed from. Raises RunStopped for a row that lacks what the context names.
        """
        if not self.settings.reads_more:
            return batch
        trajectories = [one for group in groups for one in group.trajectories]
        of_rows = batch.get("trajectory_ids")
        if of_rows is not None:
            trajectories = [trajectories[index] for index in of_rows.tolist()]
        try:
            found = context_ids(self.settings.context or "", trajectories, tokenizer, others=self.settings.others)
        except ValueError as error:
            raise RunStopped(f"critic.context: {error}") from None
        return batch.with_(context_ids=found)

    def measure(self, batch: Batch, *names: str) -> Outputs:
        """The outputs `names` of a critic with a learner of its own, on the policy's rows: [N, T, ...] each."""
        assert self.learner is not None
        if self.settings.reads_more and "context_ids" not in batch:
            raise RunStopped("critic.context: the batch to be measured has no contexts")
        return _measured(self.learner, batch, names)

    def watch(self, learner: Learner) -> Movement:
        """The watch on the weights that `learner` trains of this critic."""
        if self._movement is None:
            own = self.learner is not None
            name = learner.name if own else f"{learner.name}.critic"
            self._movement = Movement(name, learner.engine, prefix="" if own else "value_head.")
        return self._movement

    @property
    def target(self) -> Target | None:
        """The slow copy as providers read it."""
        return Target(self.slow) if self.slow else None

    def update(self, algorithm: Algorithm, mini: CreditedBatch, sums: MetricSums) -> CriticUpdate:
        """One optimizer step of a critic that has a learner of its own."""
        assert self.learner is not None
        rows = CriticRows.of(mini.batch)
        mini = critic_rows(mini, rows)
        movement = self.watch(self.learner)
        movement.begin()
        said = self.learner.accumulate(mini, [ValueObjective.of(algorithm, mini)], sums)
        done = self.learner.step()
        movement.after(done)
        if self.slow:
            self.slow.move()
        errors = said.get("value_error")
        return CriticUpdate(done.grad_norm, None if errors is None else rows.back(errors))

    def save(self, folder: Path) -> None:
        """Write what `load` needs beside the learner's own state; all ranks call it."""
        if self.slow and self.learner:
            self.slow.save(folder, self.learner.name)
        if self.replay and self.replay.ranks.is_first:
            with self._replay_file(folder).open("wb") as file:
                torch.save(self.replay.state_dict(), file)

    def load(self, folder: Path) -> None:
        """Restore the state that `save` wrote."""
        if self.slow and self.learner:
            self.slow.load(folder, self.learner.name)
        if self.replay:
            self.replay.load_state_dict(torch.load(self._replay_file(folder), weights_only=True))

    def keep_replay_of(self, checkpoints: Sequence[Path]) -> None:
        """Delete the replay's records that neither it nor one of these checkpoints can read."""
        if self.replay and self.replay.ranks.is_first:
            states = [torch.load(self._replay_file(one), weights_only=True) for one in checkpoints]
            self.replay.records.prune(min([self.replay.records.first, *(state["first"] for state in states)]))

    def _replay_file(self, folder: Path) -> Path:
        assert self.learner is not None
        return folder / f"{self.learner.name}.replay.pt"


@dataclass(frozen=True)
class Target:
    """A critic's slow copy, which measures batches of the policy's rows."""

    slow: MovingTrained

    def measure(self, batch: Batch, *names: str) -> Outputs:
        """The outputs `names` on the policy's rows: [N, T, ...] each."""
        return _measured(self.slow, batch, names)


def _measured(model: Learner | MovingTrained, batch: Batch, names: Sequence[str]) -> Outputs:
    rows = CriticRows.of(batch)
    return {name: rows.back(tensor) for name, tensor in model.measure(rows.batch, *names).items()}


@dataclass(frozen=True)
class CriticUpdate:
    """An optimizer step of a critic. errors: [N, T], each token's distance to its target, where the loss says it."""

    grad_norm: float
    errors: Tensor | None


def critic_rows(mini: CreditedBatch, rows: CriticRows) -> CreditedBatch:
    """The trajectories of an optimizer step as the critic reads them."""
    if "context_ids" not in mini.batch:
        return mini
    credit = mini.credit
    returns = None if credit.returns is None else rows.spread(credit.returns, math.nan)
    fixed = {name: rows.spread(weight) for name, weight in mini.fixed.items()}
    return CreditedBatch(rows.batch, Credit(rows.spread(credit.advantages), returns), fixed)

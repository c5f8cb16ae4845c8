"""A Role: a named model in a run, with its learner and, if its algorithm reads one, its critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmrl.fields import BY_NAME
from llmrl.models.head import DIVERGENCES
from llmrl.models.policy import Policy
from llmrl.models.weights import Weights
from llmrl.probe import control_output, start
from llmrl.resolve import Pieces
from llmrl.train.critics import ValueFunction
from llmrl.train.learner import Learner
from llmrl.train.past import Extrapolated, Past
from llmrl.train.references import BaseReference, FrozenReference, Moving, Reference
from llmrl.types import REFERENCE


@dataclass
class Role:
    """A model that is trained.

    reference: frozen weights; None if none is needed or another is the reference: LoRA's base, one that is `moving`, or
    one that was `measured` before the first step. past: the earlier policies, where they are read or write completions.
    controllers: the state of each that some piece reads.
    """

    name: str
    pieces: Pieces
    learner: Learner
    reference: Policy | None = None
    critic: ValueFunction | None = None
    moving: Moving | Extrapolated | None = None
    measured: Reference | None = None
    past: Past | None = None
    controllers: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.algorithm = self.pieces.algorithm
        # also in passes without a loss, so that equal models give a pair equal numbers
        self.learner.whole_groups |= self.algorithm.compares
        if DIVERGENCES & self.algorithm.wanted:
            self.learner.engine.model.compare_with(self.reference)
        for name, piece in self.algorithm.running_controllers.items():
            self.controllers.setdefault(name, start(piece))

    @property
    def owns(self) -> bool:
        """False if the learner and the weights are another role's."""
        return self.learner.name == self.name

    @property
    def learners(self) -> list[Learner]:
        """The learners that are this role's own."""
        own = [self.learner] if self.owns else []
        return own + ([self.critic.learner] if self.critic and self.critic.learner else [])

    @property
    def models(self) -> dict[str, Any]:
        """The models as providers read them."""
        critic = self.critic if self.critic and self.critic.learner else self.critic and self.learner
        return {"policy": self.learner, "reference": self._reference, "critic": critic, "past": self.past} | (
            {"critic_target": self.critic.target} if self.critic else {}
        )

    @property
    def _reference(self) -> Reference:
        other = self.measured or self.moving
        if other is not None:
            return other
        return BaseReference(self.learner) if self.reference is None else FrozenReference(self.reference, self.learner)

    @property
    def _keeping(self) -> list[Moving | Past]:
        """The models that follow the policy."""
        return [one for one in (self.moving, self.past) if one is not None]

    def after(self, step: int) -> None:
        """Move the models that follow the policy, where that is due after so many steps; all ranks call it."""
        for one in self._keeping:
            one.after(step)

    def written_by(self, writer: str, step: int) -> tuple[int, Callable[[], Weights]]:
        """A writer's weights after so many steps, with the step whose policy they are, 0 for a frozen reference."""
        if writer != REFERENCE:
            past, number = self.past, int(writer.partition("_")[2])
            assert past is not None
            return max(0, step // past.every - number + 1) * past.every, lambda: past.weights(number)
        if isinstance(self.moving, Moving):
            return step // self.moving.every * self.moving.every, self.moving.weights
        reference = self._reference
        assert isinstance(reference, BaseReference | FrozenReference)
        return 0, reference.weights

    @property
    def controlled(self) -> dict[str, Tensor]:
        """The controllers' outputs, as data that pieces read."""
        return {name: control_output(state) for name, state in self.controllers.items()}

    def control(self, metrics: Mapping[str, float]) -> None:
        """Step every controller with the step's metrics and the fields that it reads."""
        for name, state in self.controllers.items():
            piece = self.algorithm.controllers[name]
            read = {field: _numbers(field, metrics) for field in piece.data if field in BY_NAME}
            self.controllers[name] = piece({"state": state, "metrics": metrics, **read})

    def controller_metrics(self) -> dict[str, float]:
        """The controllers' outputs, to be logged."""
        found = {
            key.replace("value", f"control/{name}", 1): value
            for name, state in self.controllers.items()
            for key, value in state.items()
            if key == "value" or key.startswith("value/")
        }
        return {key: value for key, value in found.items() if math.isfinite(value)}

    def save(self, folder: Path) -> None:
        """Write everything that `load` needs to continue exactly; all ranks call it."""
        for learner in self.learners:
            learner.save(folder)
        for one in self._keeping:
            one.save(folder, self.name)
        if self.critic:
            self.critic.save(folder)

    def load(self, folder: Path) -> None:
        """Restore the state that `save` wrote."""
        for learner in self.learners:
            learner.load(folder)
        for one in self._keeping:
            one.load(folder, self.name)
        if self.critic:
            self.critic.load(folder)


def numbers_of(name: str, tensor: Tensor) -> dict[str, float]:
    """A field of several numbers as metrics: name/0, name/1, ..."""
    return {f"{name}/{index}": float(value) for index, value in enumerate(tensor.flatten())}


def _numbers(name: str, metrics: Mapping[str, float]) -> Tensor | None:
    """A field back from its metrics; None where the step did not measure it."""
    values: list[float] = []
    while (value := metrics.get(f"{name}/{len(values)}")) is not None:
        values.append(value)
    return torch.tensor(values, dtype=torch.float64) if values else None

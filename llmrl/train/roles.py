"""A Role: a named model in a run, with what trains it and, where its algorithm reads values, its critic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmrl.algorithm import Algorithm
from llmrl.engines.engine import Engine
from llmrl.engines.ranks import Ranks
from llmrl.models.policy import Policy
from llmrl.recipe import Critic as CriticSettings
from llmrl.recipe import Training

Outputs = dict[str, Tensor]


@dataclass
class ValueFunction:
    """The critic: `engine` is its own, or None where it shares the policy's backbone and engine."""

    settings: CriticSettings
    engine: Engine | None = None


@dataclass
class Role:
    """reference: frozen weights of their own; None when none is needed or LoRA's base is the reference.

    controllers: the state of each controller that some piece reads.
    """

    name: str
    algorithm: Algorithm
    engine: Engine
    training: Training
    ranks: Ranks
    reference: Policy | None = None
    critic: ValueFunction | None = None
    controllers: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.algorithm.controllers.keys() & self.algorithm.needs:
            self.controllers.setdefault(name, self._controlled(name, {}, {}))

    @torch.no_grad()
    def measure(self, *inputs: Tensor, **asked: Any) -> Outputs:
        """What the current policy says, without a gradient and without an adapter's dropout: what sampled had none."""
        with _measuring(self.engine):
            return self.engine.forward(*inputs, **asked)

    @torch.no_grad()
    def measure_reference(self, *inputs: Tensor) -> Outputs:
        """What the reference says: its own weights, or this policy with its adapter switched off."""
        if self.reference is None:
            with _measuring(self.engine), self.engine.model.without_adapter():
                return self.engine.forward(*inputs)
        return self.reference(*inputs)

    @torch.no_grad()
    def measure_values(self, *inputs: Tensor) -> Outputs:
        """The critic's outputs, without a gradient and without an adapter's dropout."""
        assert self.critic is not None
        if self.critic.engine is None:
            return self.measure(*inputs, wanted=frozenset({"value_outputs"}))
        with _measuring(self.critic.engine):
            return self.critic.engine.forward(*inputs)

    @property
    def controlled(self) -> dict[str, Tensor]:
        """The controllers' outputs, as data that pieces read."""
        found = {}
        for name, state in self.controllers.items():
            several = [value for key, value in state.items() if key.startswith("value/")]
            found[name] = torch.tensor(several or state["value"], device=self.engine.device)
        return found

    def control(self, metrics: Mapping[str, float]) -> None:
        """Let every controller see the step's metrics."""
        for name, state in self.controllers.items():
            self.controllers[name] = self._controlled(name, state, metrics)

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
        """Everything `load` needs to go on exactly; all ranks call it."""
        self.engine.save(folder)
        if self.critic and self.critic.engine:
            self.critic.engine.save(folder, "critic")

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        self.engine.load(folder)
        if self.critic and self.critic.engine:
            self.critic.engine.load(folder, "critic")

    def _controlled(self, name: str, state: dict[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
        return self.algorithm.controllers[name]({"state": state, "metrics": metrics})


@contextmanager
def _measuring(engine: Engine) -> Iterator[None]:
    engine.model.eval()
    try:
        yield
    finally:
        engine.model.train()

"""Earlier policies of a stage, which losses compare the policy with and which may write completions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.errors import RunStopped
from llmrl.models.weights import Weights
from llmrl.train.learner import Learner
from llmrl.train.micro_batches import Outputs
from llmrl.train.references import FrozenReference, weights_of


@dataclass
class Past:
    """The policies of the last `count` moves, the newest first; a move is made after every `every`-th step.

    The stage's first policy stands for those that are missing. model: computes with the weights that are kept; None for
    a LoRA policy, of which adapters are kept and the engine computes with each in place of the policy's.
    """

    learner: Learner
    every: int
    count: int
    model: Any = None
    moves: int = 0
    kept: list[dict[str, Tensor]] = field(default_factory=list, repr=False)

    file: ClassVar[str] = "past"

    def __post_init__(self) -> None:
        self.kept = [self._policy()] * self.count

    def after(self, step: int) -> None:
        """Keep the policy as the newest one if that is due after so many steps; all ranks call it."""
        if step % self.every == 0:
            self.kept = [self._policy(), *self.kept[:-1]]
            self.moves += 1

    def logprobs(self, batch: Batch) -> Tensor:
        """The log-probabilities of each, the newest first: [N, T, K]."""
        measured: dict[int, Tensor] = {}
        for kept in self.kept:
            if id(kept) not in measured:
                measured[id(kept)] = self._measure(kept, batch, "logprobs")["logprobs"]
        return torch.stack([measured[id(kept)] for kept in self.kept], dim=-1)

    def weights(self, number: int) -> Weights:
        """All weights of the policy `past_<number>` by Hugging Face name; every rank consumes them all."""
        kept = self.kept[number - 1]
        if self.model is not None:
            yield from kept.items()
            return
        with self.learner.engine.computing_with(kept):
            yield from self.learner.weights()

    def save(self, folder: Path, name: str) -> None:
        """Write all weights; every rank has them, and the first one writes."""
        if self.learner.ranks.is_first:
            with (folder / f"{name}.{self.file}.pt").open("wb") as file:
                torch.save({"moves": self.moves, "kept": self.kept}, file)

    def load(self, folder: Path, name: str) -> None:
        """Restore what `save` wrote; raises RunStopped if it is of another model, or of fewer or more policies."""
        found = torch.load(folder / f"{name}.{self.file}.pt", map_location="cpu", weights_only=True)
        if len(found["kept"]) != self.count or any(one.keys() != self.kept[0].keys() for one in found["kept"]):
            raise RunStopped(f"{folder}: the earlier policies in it are others than those of this run")
        self.kept, self.moves = found["kept"], found["moves"]

    @torch.no_grad()
    def _policy(self) -> dict[str, Tensor]:
        """A copy of the policy's weights, or of its adapter's, in the host's memory."""
        if self.model is None:
            return {name: weight.to("cpu", copy=True) for name, weight in self.learner.engine.trained_weights().items()}
        types = {name: weight.dtype for name, weight in weights_of(self.model.lm).items()}
        return {name: weight.to("cpu", types[name], copy=True) for name, weight in self.learner.weights()}

    @torch.no_grad()
    def _measure(self, kept: Mapping[str, Tensor], batch: Batch, *names: str) -> Outputs:
        if self.model is None:
            with self.learner.engine.computing_with(kept):
                return self.learner.measure(batch, *names)
        for name, weight in weights_of(self.model.lm).items():
            weight.data.copy_(kept[name])
        return FrozenReference(self.model, self.learner).measure(batch, *names)


class Extrapolated(Past):
    """A reference beyond the policy of the newest of two moves, in the direction from the other (Nesterov):

        log reference = (1 + momentum) log past_1 - momentum log past_2 + constant

    The constant is left out, so it is a reference for losses in which a constant of the prompt cancels. Source:
    accelerated preference optimization, arXiv 2410.06293.
    """

    file: ClassVar[str] = "reference"

    def __init__(self, learner: Learner, every: int, momentum: float, model: Any = None):
        super().__init__(learner, every, 2, model)
        self.momentum = momentum

    def measure(self, batch: Batch, *names: str) -> Outputs:
        """The extrapolated log-probabilities: [N, T]; raises RunStopped for any other output."""
        if other := [name for name in names if name != "logprobs"]:
            raise RunStopped(f"reference.momentum: extrapolates log-probabilities, but a piece reads {other[0]}")
        newest, before = self.logprobs(batch).unbind(dim=-1)
        return {"logprobs": (1 + self.momentum) * newest - self.momentum * before}

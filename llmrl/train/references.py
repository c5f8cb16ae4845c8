"""References: the models that a policy's log ratios are taken to, frozen or moved towards the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.errors import RecipeError, RunStopped
from llmrl.models.weights import Weights, base_parameters, base_weights, kept_buffers
from llmrl.spans import span
from llmrl.train.learner import Learner, inputs
from llmrl.train.micro_batches import Outputs


class Reference(Protocol):
    """A model that measures batches and is not trained."""

    def measure(self, batch: Batch, *names: str) -> Outputs:
        """The model's outputs `names` for all rows, on every rank: [N, T, ...] or [N] each."""
        ...


@dataclass(frozen=True)
class FrozenReference:
    """A reference with weights of its own; its batches are cut as those of `learner`."""

    model: Any
    learner: Learner

    @torch.no_grad()
    def measure(self, batch: Batch, *names: str) -> Outputs:
        return self.learner.collect(self._forward, batch, names)

    def weights(self) -> Weights:
        """All weights by Hugging Face name."""
        yield from weights_of(self.model.lm).items()

    def _forward(self, batch: Batch, wanted: frozenset[str], known: Mapping[str, Tensor]) -> Outputs:
        with span("forward"):
            return self.model(*inputs(batch), wanted=wanted)


@dataclass(frozen=True)
class BaseReference:
    """A LoRA model's own base as the reference: the adapter is switched off."""

    learner: Learner

    def measure(self, batch: Batch, *names: str) -> Outputs:
        return self.learner.measure_base(batch, *names)

    def weights(self) -> Weights:
        """The base's weights by Hugging Face name; every rank consumes them all."""
        return self.learner.weights(base_weights)


@dataclass
class Moving:
    """A reference that is moved towards the policy after every `every`-th step of a stage:

        reference <- mix * policy + (1 - mix) * reference

    With mix 1 it is an earlier policy, of at most `every` steps ago; with every 1 and a small mix it is a moving
    average. Source: TR-DPO, arXiv 2404.09656. kept: its weights, whole on every rank; fp32 unless they are copies of
    the policy's.
    """

    learner: Learner
    every: int
    mix: float
    kept: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def after(self, step: int) -> None:
        """Move it if it is due after that many steps; all ranks call it."""
        if step % self.every == 0:
            self.move()

    def save(self, folder: Path, name: str) -> None:
        """Write the weights; every rank has all of them, and the first one writes."""
        if self.learner.ranks.is_first:
            with (folder / f"{name}.reference.pt").open("wb") as file:
                torch.save({key: weight.cpu() for key, weight in self.kept.items()}, file)

    @torch.no_grad()
    def load(self, folder: Path, name: str) -> None:
        """Restore what `save` wrote; raises RunStopped if it is of another model."""
        found = torch.load(folder / f"{name}.reference.pt", map_location="cpu", mmap=True, weights_only=True)
        if differing := sorted(found.keys() ^ self.kept.keys()):
            raise RunStopped(f"{folder}: its reference has other weights than this one: {', '.join(differing[:3])}")
        for key, weight in self.kept.items():
            weight.copy_(found[key])
        self._put()

    def measure(self, batch: Batch, *names: str) -> Outputs:
        raise NotImplementedError

    def weights(self) -> Weights:
        """All weights by Hugging Face name; every rank consumes them all."""
        raise NotImplementedError

    def move(self) -> None:
        """Move it; all ranks call it."""
        raise NotImplementedError

    def _put(self) -> None:
        """Bring the weights kept into the model that measures."""

    def _mix(self, name: str, weight: Tensor) -> None:
        kept = self.kept[name]
        weight = weight.to(kept.device, kept.dtype)
        if kept.is_floating_point():
            kept.lerp_(weight, self.mix)
        else:
            kept.copy_(weight)


@dataclass
class MovingWeights(Moving):
    """A moving reference with all weights of its own, in `model`; a LoRA policy's adapter is merged as it is mixed in.

    Raises RecipeError if the model's weights are not shaped as the policy's.
    """

    model: Any

    @torch.no_grad()
    def __post_init__(self) -> None:
        own = weights_of(self.model.lm)
        shapes = {name: _shape(weight) for name, weight in weights_of(self.learner.engine.model.lm).items()}
        named = own.keys() | shapes.keys()
        differing = sorted(name for name in named if name not in own or shapes.get(name) != own[name].shape)
        if differing:
            raise RecipeError(
                f"reference.every: the reference moves towards the policy, but reference.model has other weights than "
                f"the policy: {', '.join(differing[:3])}; leave one of the two keys out"
            )
        exact = self.mix == 1.0  # else a small step would be lost in rounding
        self.kept = {name: weight.detach() if exact else _exact(weight) for name, weight in own.items()}

    def measure(self, batch: Batch, *names: str) -> Outputs:
        return FrozenReference(self.model, self.learner).measure(batch, *names)

    def weights(self) -> Weights:
        return FrozenReference(self.model, self.learner).weights()

    @torch.no_grad()
    def move(self) -> None:
        for name, weight in self.learner.weights():
            self._mix(name, weight)
        self._put()

    def _put(self) -> None:
        for name, weight in weights_of(self.model.lm).items():
            if weight.data_ptr() != self.kept[name].data_ptr():
                weight.data.copy_(self.kept[name])


@dataclass
class MovingTrained(Moving):
    """A moving copy of what a learner trains: of a LoRA policy's adapter, or of all weights of a critic.

    The engine computes with the copy in place of the learner's own weights while the copy measures.
    """

    def __post_init__(self) -> None:
        self.kept = {name: _exact(weight).clone() for name, weight in self.learner.engine.trained_weights().items()}

    @torch.no_grad()
    def measure(self, batch: Batch, *names: str) -> Outputs:
        with self.learner.engine.computing_with(self.kept):
            return self.learner.measure(batch, *names)

    def weights(self) -> Weights:
        with self.learner.engine.computing_with(self.kept):
            yield from self.learner.weights()

    @torch.no_grad()
    def move(self) -> None:
        for name, weight in self.learner.engine.trained_weights().items():
            self._mix(name, weight)


def _exact(weight: Tensor) -> Tensor:
    return weight.detach().float() if weight.is_floating_point() else weight.detach()


def weights_of(lm: Any) -> dict[str, Tensor]:
    """A model's weights by the names that `Learner.weights` gives the policy's."""
    return {**base_parameters(lm), **kept_buffers(lm)}


def _shape(weight: Any) -> torch.Size:
    return torch.Size(getattr(weight, "ds_shape", weight.shape))  # ZeRO-3 flattens its slices

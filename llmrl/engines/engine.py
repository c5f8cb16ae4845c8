"""The Engine protocol, and functions that its implementations share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from llmrl.errors import RunStopped
from llmrl.models.weights import Form, Weights, merged_weights
from llmrl.recipe import Training


@dataclass(frozen=True)
class Update:
    """The gradient's norm before clipping, and the learning rate, of one optimizer step."""

    grad_norm: float
    learning_rate: float


class Engine(Protocol):
    """Owns a trained model (a Policy or a Critic), its optimizer and schedule.

    Losses are summed over micro-batches and over ranks. Parameters are named as in the model, those of its language
    model as in the language model.
    """

    model: Any
    device: torch.device

    def forward(self, *inputs: Tensor, **asked: Any) -> dict[str, Tensor]:
        """The model's forward, through the engine's wrapper."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of `loss`; `last` marks the final micro-batch before `step`."""
        ...

    def step(self) -> Update:
        """Clip, update, advance the schedule; raises RunStopped, with weights untouched, if not finite."""
        ...

    def weights(self, form: Form = merged_weights) -> Weights:
        """The language model's whole weights in a form of models/weights.py; every rank consumes all of them."""
        ...

    def trained_weights(self) -> dict[str, Tensor]:
        """Whole trained weights, with LoRA the adapter's, by parameter name; every rank must call it."""
        ...

    def computing_with(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Inside this context the model computes with other values of `trained_weights`; every rank enters it."""
        ...

    def full_gradients(self) -> dict[str, Tensor]:
        """Whole gradients by parameter name, between the last backward and step."""
        ...

    def save(self, folder: Path, name: str = "engine") -> None:
        """Write everything that `load` needs to continue exactly: weights, optimizer, schedule. All ranks call it."""
        ...

    def load(self, folder: Path, name: str = "engine") -> None: ...


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters by name."""
    return {n.removeprefix("lm."): p for n, p in model.named_parameters() if p.requires_grad}


def make_optimizer(parameters: Iterable[nn.Parameter], training: Training) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; biases and norms are not decayed.

    On a GPU it is torch's fused one, since the default there holds copies of the moments while it steps.
    """
    trainable = [p for p in parameters if p.requires_grad]
    fused = all(p.is_cuda for p in trainable)
    groups = [
        {"params": [p for p in trainable if _is_matrix(p)], "weight_decay": training.weight_decay},
        {"params": [p for p in trainable if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=training.betas, fused=fused or None)


def _is_matrix(parameter: nn.Parameter) -> bool:
    return len(getattr(parameter, "ds_shape", parameter.shape)) > 1  # ZeRO-3 flattens its slices


def make_schedule(optimizer: Any, training: Training) -> Any:
    """The learning-rate schedule, in optimizer steps."""
    updates = training.updates_per_step * training.epochs_per_step
    return get_scheduler(
        training.schedule,
        optimizer,
        num_warmup_steps=training.warmup_steps * updates,
        num_training_steps=training.known_steps * updates,
    )


def settings_of(optimizer: Any) -> list[dict[str, Any]]:
    """The settings of each parameter group, without the parameters."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def go_on(optimizer: Any, schedule: Any, settings: list[dict[str, Any]], updates: int) -> None:
    """Puts the schedule at `updates`, and the recipe's settings back over those that a loaded optimizer state brings.

    settings: from `settings_of`, before the state was loaded.
    """
    schedule.last_epoch = updates
    for group, own, base, factor in zip(
        optimizer.param_groups, settings, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group.update(own, lr=base * factor(updates))


def refuse_bad_numbers(grad_norm: float) -> None:
    """Stop before a NaN or infinity reaches the weights."""
    if not math.isfinite(grad_norm):
        raise RunStopped(f"the gradient's norm is {grad_norm}: stopped before the update, weights are untouched")

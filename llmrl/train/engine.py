"""The Engine protocol, and its plain-torch form for one process. DeepSpeed's form is in deepspeed_engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import get_scheduler

from llmrl.errors import RunStopped
from llmrl.models.policy import Policy, merged_weights
from llmrl.recipe import Training


@dataclass(frozen=True)
class Update:
    """What one optimizer step did: the gradient's norm before clipping, the learning rate used."""

    grad_norm: float
    learning_rate: float


class Engine(Protocol):
    """Owns a trained model, its optimizer and schedule. Losses are sums: over micro-batches and over ranks."""

    policy: Policy
    device: torch.device

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Policy.forward through whatever wraps it."""
        ...

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of `loss`; `last` marks the final micro-batch before `step`."""
        ...

    def step(self) -> Update:
        """Clip, update, advance the schedule; raises RunStopped, with weights untouched, if not finite."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Whole weights by Hugging Face name, adapters merged; every rank must consume it to the end."""
        ...

    def full_gradients(self) -> dict[str, Tensor]:
        """Whole gradients by parameter name, between the last backward and step."""
        ...

    def save(self, folder: Path) -> None:
        """Everything `load` needs to go on exactly: weights, optimizer, schedule. All ranks call it."""
        ...

    def load(self, folder: Path) -> None: ...


def make_optimizer(module: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW over what is trainable; biases and norms are not decayed."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if _is_matrix(p)], "weight_decay": training.weight_decay},
        {"params": [p for p in trainable if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=training.learning_rate, betas=training.betas)


def _is_matrix(parameter: nn.Parameter) -> bool:
    return len(getattr(parameter, "ds_shape", parameter.shape)) > 1  # ZeRO-3 flattens what it holds


def make_schedule(optimizer: Any, training: Training) -> Any:
    """The learning-rate schedule, in optimizer steps."""
    updates = training.updates_per_step * training.epochs_per_step
    return get_scheduler(
        training.schedule,
        optimizer,
        num_warmup_steps=training.warmup_steps * updates,
        num_training_steps=training.steps * updates,
    )


def settings_of(optimizer: Any) -> list[dict[str, Any]]:
    """The settings of each parameter group, without the parameters."""
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]


def go_on(optimizer: Any, schedule: Any, settings: list[dict[str, Any]], updates: int) -> None:
    """After a checkpoint's moments are loaded: `updates` into the schedule, by the recipe's own settings.

    An optimizer's state brings the settings it was saved with; a run may be continued with other ones.
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


class TorchEngine:
    """One process, one device, plain torch. Weights are kept in fp32; bf16 runs the forward under autocast."""

    def __init__(self, policy: Policy, training: Training, device: torch.device):
        self.policy = policy.to(device)
        self.device = device
        self._training = training
        self._optimizer = make_optimizer(policy, training)
        self._schedule = make_schedule(self._optimizer, training)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        with self._precision():
            return self.policy(*inputs)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def step(self) -> Update:
        grad_norm = float(nn.utils.clip_grad_norm_(self.policy.parameters(), self._training.max_grad_norm))
        refuse_bad_numbers(grad_norm)
        learning_rate = self._optimizer.param_groups[0]["lr"]
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        return Update(grad_norm, learning_rate)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        return merged_weights(self.policy.lm)

    def full_gradients(self) -> dict[str, Tensor]:
        return {n: p.grad.clone() for n, p in self.policy.lm.named_parameters() if p.grad is not None}

    def save(self, folder: Path) -> None:
        state = {
            "weights": self._trained(),
            "optimizer": self._optimizer.state_dict(),
            "updates": self._schedule.last_epoch,
        }
        with (folder / "engine.pt").open("wb") as file:  # its errors say what is wrong; those of a path do not
            torch.save(state, file)

    def load(self, folder: Path) -> None:
        state = torch.load(folder / "engine.pt", map_location=self.device, weights_only=True)
        differing = sorted(state["weights"].keys() ^ self._trained().keys())
        if differing:
            raise RunStopped(f"{folder}: holds other weights than are trained here: {', '.join(differing[:3])}")
        self.policy.lm.load_state_dict(state["weights"], strict=False)
        settings = settings_of(self._optimizer)
        self._optimizer.load_state_dict(state["optimizer"])
        go_on(self._optimizer, self._schedule, settings, state["updates"])

    def _trained(self) -> dict[str, nn.Parameter]:
        return {n: p for n, p in self.policy.lm.named_parameters() if p.requires_grad}

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._training.dtype == "bf16")

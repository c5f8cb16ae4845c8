"""The Engine on one process: plain torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmrl.engines.engine import (
    Update,
    go_on,
    make_optimizer,
    make_schedule,
    refuse_bad_numbers,
    settings_of,
    trained_parameters,
)
from llmrl.errors import RunStopped
from llmrl.models.weights import Form, Weights, merged_weights
from llmrl.recipe import Training

Named = dict[str, Any]


class TorchEngine:
    """One process, one device, plain torch.

    In bf16 the model computes in bf16 and the trained weights have fp32 masters, in which gradients are summed and
    updates made, to be rounded into the model. In fp32 the weights are their own masters.

    An engine over several processes overrides the model's placement, the gathering and slicing of a divided tensor, and
    which process saves.
    """

    _saves = True

    def __init__(self, model: nn.Module, training: Training, device: torch.device):
        self.model: Any = model
        self.device = device
        self._training = training
        self._place(model)
        self._trained: Named = trained_parameters(model)
        self._masters = self._make_masters() if training.dtype == "bf16" else self._trained
        self._optimizer = make_optimizer(self._masters.values(), training)
        self._schedule = make_schedule(self._optimizer, training)

    def forward(self, *inputs: Tensor, **asked: Any) -> dict[str, Tensor]:
        return self.model(*inputs, **asked)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        loss.backward()

    def step(self) -> Update:
        norm = nn.utils.clip_grad_norm_(self._masters.values(), self._training.max_grad_norm)
        grad_norm = float(self._whole(norm))
        refuse_bad_numbers(grad_norm)
        learning_rate = self._optimizer.param_groups[0]["lr"]
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._round_masters()
        return Update(grad_norm, learning_rate)

    def weights(self, form: Form = merged_weights) -> Weights:
        return form(self.model.lm, self._as_computed)

    def trained_weights(self) -> dict[str, Tensor]:
        return {name: self._as_computed(parameter) for name, parameter in self._trained.items()}

    @contextmanager
    def computing_with(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        own = {name: parameter.detach().clone() for name, parameter in self._trained.items()}
        self._fill({name: self._slice(weights[name].to(p), p) for name, p in self._trained.items()})
        try:
            yield
        finally:
            self._fill(own)

    def full_gradients(self) -> dict[str, Tensor]:
        return {n: self._whole(p.grad).clone() for n, p in self._masters.items() if p.grad is not None}

    def save(self, folder: Path, name: str = "engine") -> None:
        state = self._state()
        if not self._saves:
            return
        with (folder / f"{name}.pt").open("wb") as file:  # torch.save's errors for a path lack the cause
            torch.save(state, file)

    @torch.no_grad()
    def load(self, folder: Path, name: str = "engine") -> None:
        state = torch.load(folder / f"{name}.pt", map_location="cpu", mmap=True, weights_only=True)
        differing = sorted(state["weights"].keys() ^ self._masters.keys())
        if differing:
            raise RunStopped(f"{folder}: holds other weights than are trained here: {', '.join(differing[:3])}")
        for name, master in self._masters.items():
            master.copy_(self._slice(state["weights"][name], master))
        self._round_masters()
        settings = settings_of(self._optimizer)
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        moments: dict[int, Named] = state["optimizer"]["state"]
        for index, of_parameter in moments.items():
            for key, value in of_parameter.items():
                of_parameter[key] = self._slice(value, parameters[index]).clone()  # off the file
        # with this optimizer's own settings, which say where its state lies: the file may come from another device
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        go_on(self._optimizer, self._schedule, settings, state["updates"])

    def _place(self, model: nn.Module) -> None:
        """Bring the model to the device, before its weights are given to the optimizer."""
        model.to(self.device)

    @torch.no_grad()
    def _fill(self, values: Named) -> None:
        """Give the parameters that the model computes with these values, of this process's slices."""
        for name, parameter in self._trained.items():
            parameter.copy_(values[name])

    def _whole(self, tensor: Tensor) -> Tensor:
        """All of a tensor of which this process may hold a slice."""
        return tensor

    def _as_computed(self, parameter: nn.Parameter) -> Tensor:
        """All of a parameter, in the dtype that the model computes with."""
        return self._whole(parameter.detach())

    def _slice(self, whole: Tensor, parameter: nn.Parameter) -> Tensor:
        """This process's slice of a tensor that belongs to `parameter`."""
        return whole

    def _kept(self, tensor: Tensor) -> Tensor | None:
        """All of a tensor, on the host; None in a process that does not save."""
        whole = self._whole(tensor.detach())
        return whole.cpu() if self._saves else None

    def _state(self) -> Named:
        """The state to save, in whole tensors, so that other numbers of processes can load it."""
        optimizer = self._optimizer.state_dict()
        moments: dict[int, Named] = optimizer["state"]
        kept = {index: {key: self._kept(value) for key, value in of.items()} for index, of in moments.items()}
        return {
            "weights": {name: self._kept(master) for name, master in self._masters.items()},
            "optimizer": optimizer | {"state": kept},
            "updates": self._schedule.last_epoch,
        }

    def _make_masters(self) -> Named:
        """Round the model to bf16; returns fp32 copies of the trained parameters."""
        masters = {n: nn.Parameter(p.detach().float().clone()) for n, p in self._trained.items()}
        for parameter in self.model.parameters():  # buffers stay: rotary frequencies are computed in fp32
            parameter.data = parameter.data.bfloat16()
        for name, parameter in self._trained.items():
            parameter.register_post_accumulate_grad_hook(partial(_move_gradient, master=masters[name]))
        return masters

    @torch.no_grad()
    def _round_masters(self) -> None:
        if self._masters is not self._trained:
            for name, parameter in self._trained.items():
                parameter.copy_(self._masters[name])


def _move_gradient(parameter: nn.Parameter, *, master: nn.Parameter) -> None:
    """Add a bf16 gradient to the fp32 sum of its master."""
    assert parameter.grad is not None
    gradient = parameter.grad.float()
    master.grad = gradient if master.grad is None else master.grad + gradient
    parameter.grad = None

"""The Engine over N processes: DeepSpeed ZeRO. The only file that imports deepspeed."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from llmrl.engines import ranks
from llmrl.engines.engine import (
    Update,
    go_on,
    make_optimizer,
    make_schedule,
    refuse_bad_numbers,
    settings_of,
    trained_parameters,
)
from llmrl.models.weights import Form, Weights, merged_weights
from llmrl.recipe import Training

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")

import deepspeed
import deepspeed.ops
from deepspeed.utils import logger, safe_get_full_grad

logger.setLevel(logging.ERROR)
# DeepSpeed calls collectives by their old names, and torch warns at each call
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


def start_process_group(device: torch.device) -> None:
    """Join the processes that the launcher started, or make a group of one."""
    # gloo replaces this op, whose build takes minutes and, if it is killed, blocks all later runs
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it
    if not dist.is_initialized():
        ranks.start_process_group(device)
        deepspeed.init_distributed(dist.get_backend(), verbose=False)


class DeepSpeedEngine:
    """ZeRO stage 0 to 3 over the process group, fp32 or bf16 with fp32 master weights."""

    def __init__(self, model: nn.Module, training: Training, device: torch.device):
        self.model: Any = model
        self.device = device
        self._training = training
        self._optimizer = make_optimizer(model.parameters(), training)
        if training.zero_stage == 3:  # the head's forward gathers its weights, so all ranks have to run it together
            self.model.agree_on_slices = self._most
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,  # micro-batches are counted here, by `last`
            "gradient_clipping": training.max_grad_norm,
            "bf16": {"enabled": training.dtype == "bf16"},
            "zero_optimization": {"stage": training.zero_stage},
            "steps_per_print": 10**9,
        }
        # in bf16 DeepSpeed rounds buffers too, but rotary frequencies have to stay as vLLM computes them
        buffers = {name: buffer.clone() for name, buffer in model.to(device).named_buffers()}
        self._engine: Any = deepspeed.initialize(
            model=model, optimizer=self._optimizer, config=_merged(config, training.deepspeed)
        )[0]
        for name, buffer in model.named_buffers():
            buffer.data = buffers[name]
        self._schedule = make_schedule(self._optimizer, training)  # DeepSpeed's own optimizer wraps this one

    def forward(self, *inputs: Tensor, **asked: Any) -> dict[str, Tensor]:
        return self._engine(*inputs, **asked)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages gradients over ranks; the loss of a step is a sum over them
        self._engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)

    def step(self) -> Update:
        learning_rate = self._optimizer.param_groups[0]["lr"]
        if self._training.zero_stage == 0:  # whole gradients on every rank; stages above measure their slices
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            grad_norm = float(torch.nn.utils.get_total_norm(gradients))
            refuse_bad_numbers(grad_norm)
            self._engine.step()
        else:
            self._engine.step()  # leaves the weights alone if the norm is not finite
            grad_norm = float(self._engine.get_global_grad_norm())
            refuse_bad_numbers(grad_norm)
        self._schedule.step()
        return Update(grad_norm, learning_rate)

    def weights(self, form: Form = merged_weights) -> Weights:
        return form(self.model.lm, self._whole)

    def trained_weights(self) -> dict[str, Tensor]:
        return {name: self._whole(parameter) for name, parameter in trained_parameters(self.model).items()}

    @contextmanager
    def computing_with(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        own = self.trained_weights()
        self._fill(weights)
        try:
            yield
        finally:
            self._fill(own)

    @torch.no_grad()
    def _fill(self, values: Mapping[str, Tensor]) -> None:
        """Give the parameters that the model computes with these whole values; the optimizer keeps its own copies."""
        for name, parameter in trained_parameters(self.model).items():
            with self._gathered(parameter, changed=True):
                parameter.data.copy_(values[name])

    def full_gradients(self) -> dict[str, Tensor]:
        found = {name: safe_get_full_grad(p) for name, p in trained_parameters(self.model).items()}
        return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}

    def save(self, folder: Path, name: str = "engine") -> None:
        self._engine.save_checkpoint(str(folder), tag=name, client_state={"updates": self._schedule.last_epoch})

    def load(self, folder: Path, name: str = "engine") -> None:
        settings = settings_of(self._optimizer)
        path, state = self._engine.load_checkpoint(str(folder), tag=name)
        if path is None:
            raise FileNotFoundError(f"{folder}: no DeepSpeed checkpoint in it")
        go_on(self._optimizer, self._schedule, settings, state["updates"])

    def _most(self, count: int) -> int:
        """The largest count of all ranks."""
        largest = torch.tensor(count, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def _whole(self, parameter: nn.Parameter) -> Tensor:
        """A copy of all of a parameter, which is a slice again once the next one is gathered."""
        with self._gathered(parameter):
            return parameter.detach().clone()

    def _gathered(self, parameter: nn.Parameter, *, changed: bool = False) -> AbstractContextManager[Any]:
        """Inside this context the parameter is whole; changed: what the first rank makes of it is kept."""
        if self._training.zero_stage < 3:
            return nullcontext()
        return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if changed else None)


def _merged(config: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """The recipe's own DeepSpeed settings over ours, section by section."""
    merged = dict(config)
    for key, value in extra.items():
        below = merged.get(key)
        merged[key] = below | value if isinstance(below, dict) and isinstance(value, dict) else value
    return merged

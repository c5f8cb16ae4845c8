"""The Engine over N processes with accelerate: DDP, or FSDP2. The only file that imports accelerate."""

from __future__ import annotations

import os
import warnings
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed import GradBucket  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from llmrl.engines.torch_engine import Named, TorchEngine
from llmrl.errors import RecipeError, unknown_name
from llmrl.models.weights import Form, Weights, merged_weights
from llmrl.recipe import Training

OF_FSDP = ("reshard_after_forward", "auto_wrap_policy", "transformer_cls_names_to_wrap", "min_num_params")
ASKED_ELSEWHERE = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")


class AccelerateEngine(TorchEngine):
    """TorchEngine on every rank, with its gradients averaged by DDP, or its weights divided by FSDP2.

    Under DDP each rank holds everything, in bf16 the fp32 masters too. Under FSDP2 each rank holds an fp32 slice of
    each trained weight and of its moments; in bf16 the slices are rounded when a layer gathers them. Both write
    TorchEngine's file, so a run may be resumed with another number of processes.
    """

    def __init__(self, model: nn.Module, training: Training, device: torch.device):
        self._settings = _checked(training.accelerate)
        self._sharded = self._settings.pop("fsdp", False)
        self._size = dist.get_world_size() if dist.is_initialized() else 1
        self._saves = self._size == 1 or dist.get_rank() == 0
        self._accelerator = _accelerator(device)
        super().__init__(model, training, device)
        # after the rounding to bf16, because DDP makes its buckets in the parameters' dtype
        self._wrapped: Any = model if self._sharded else self._accelerator.prepare_model(model)
        self._is_ddp = isinstance(self._wrapped, DistributedDataParallel)
        if self._is_ddp and self._masters is not self._trained:
            self._master_of = {p: self._masters[name] for name, p in self._trained.items()}
            # a lambda, because DDP reads annotations, and those of this file are strings
            self._wrapped.register_comm_hook(None, lambda _, bucket: self._average_masters(bucket))

    def forward(self, *inputs: Tensor, **asked: Any) -> dict[str, Tensor]:
        # only `backward` knows whether this is the micro-batch after which gradients are averaged
        with self._wrapped.no_sync() if self._is_ddp else nullcontext():
            return self._wrapped(*inputs, **asked)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        if self._sharded:
            self._wrapped.set_requires_gradient_sync(last)
        elif self._is_ddp and last:
            # no_sync skipped this in the forward: DDP finds the parameters that the loss does not depend on
            self._wrapped.reducer.prepare_for_backward([loss])
        # gradients are averaged over ranks; the loss of a step is a sum over them
        super().backward(loss * self._size, last=last)
        if self._masters is not self._trained:  # DDP leaves unused values of its buckets in the gradients
            for parameter in self._trained.values():
                parameter.grad = None

    def weights(self, form: Form = merged_weights) -> Weights:
        self._divide()
        return super().weights(form)

    def _fill(self, values: Named) -> None:
        self._divide()
        super()._fill(values)

    def _divide(self) -> None:
        """Divide the layers that a forward pass without a backward pass has left whole."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _place(self, model: nn.Module) -> None:
        if not self._sharded:
            return super()._place(model)
        if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
            raise RecipeError(
                "training.accelerate.fsdp: FSDP2 cannot divide a model that two roles share; leave it out"
            )
        if self._training.dtype == "bf16":
            for parameter in model.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.bfloat16()
        # given to the Accelerator itself, the plugin would be passed over on CPUs, and set an environment variable
        # that makes every later Accelerator use FSDP
        self._accelerator.state.fsdp_plugin = self._plugin(model)
        fsdp2_prepare_model(self._accelerator, model)

    def _plugin(self, model: nn.Module) -> FullyShardedDataParallelPlugin:
        """FSDP2 layer by layer, unless the recipe says otherwise."""
        dtype = torch.bfloat16 if self._training.dtype == "bf16" else torch.float32
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        settings: dict[str, Any] = {"auto_wrap_policy": "transformer_based_wrap"} | self._settings
        if settings["auto_wrap_policy"] == "transformer_based_wrap":
            settings.setdefault("transformer_cls_names_to_wrap", _layers(model))
        return FullyShardedDataParallelPlugin(fsdp_version=2, mixed_precision_policy=policy, **settings)

    def _make_masters(self) -> Named:
        return self._trained if self._sharded else super()._make_masters()

    def _whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def _as_computed(self, parameter: nn.Parameter) -> Tensor:
        whole = super()._as_computed(parameter)
        return whole.bfloat16() if self._training.dtype == "bf16" else whole

    def _slice(self, whole: Tensor, parameter: nn.Parameter) -> Tensor:
        data = parameter.data
        if isinstance(data, DTensor) and whole.shape == data.shape:  # Adam's count of steps is no slice of anything
            return distribute_tensor(whole, data.device_mesh, data.placements)
        return whole

    def _average_masters(self, bucket: GradBucket) -> Future[Tensor]:
        """Averages the masters' fp32 gradients over ranks, in place of DDP's own average of bf16 gradients.

        A master that has no gradient on any rank gets none, as in one process.
        """
        masters = [self._master_of[parameter] for parameter in bucket.parameters()]
        gradients = [torch.zeros_like(m) if m.grad is None else m.grad for m in masters]
        counts = torch.tensor([float(m.grad is not None) for m in masters], device=self.device)
        sums = torch.cat([*(gradient.flatten() for gradient in gradients), counts])
        work = dist.all_reduce(sums, async_op=True)
        assert work is not None

        def give_back(done: Future[list[Tensor]]) -> Tensor:
            *parts, counts = done.value()[0].split([*(master.numel() for master in masters), len(masters)])
            for master, part, count in zip(masters, parts, counts.tolist(), strict=True):
                master.grad = part.view_as(master) / self._size if count else None
            return bucket.buffer()

        return work.get_future().then(give_back)


def check_settings(training: Training) -> None:
    """Raises RecipeError for wrong settings of training.accelerate."""
    _checked(training.accelerate)


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    """A copy of training.accelerate; raises RecipeError for unknown settings, and for FSDP's without fsdp: true."""
    key = "training.accelerate"
    faults = [unknown_name(key, name, ("fsdp", *OF_FSDP), "setting") for name in settings.keys() - {"fsdp", *OF_FSDP}]
    if not isinstance(settings.get("fsdp", False), bool):
        faults.append(f"{key}.fsdp: {settings['fsdp']!r} is not true or false")
    elif not settings.get("fsdp"):
        faults += [f"{key}.{name}: is a setting of FSDP2; set fsdp: true" for name in OF_FSDP if name in settings]
    faults += [
        f"training.strategy: {name} is set, as accelerate launch does for another engine than {key} chooses; unset it"
        for name in ASKED_ELSEWHERE
        if os.environ.get(name, "false").lower() == "true"
    ]
    if faults:
        raise RecipeError(*sorted(faults))
    return dict(settings)


def _accelerator(device: torch.device) -> Accelerator:
    """A new Accelerator, independent of earlier engines in this process and of the user's `accelerate config`."""
    AcceleratorState._reset_state(reset_partial_state=True)
    handler = DistributedDataParallelKwargs(find_unused_parameters=True)  # a value head may be out of the loss
    with warnings.catch_warnings():  # of the number of threads, which it sets and a run sets again
        warnings.simplefilter("ignore")
        return Accelerator(
            mixed_precision="no", cpu=device.type == "cpu", kwargs_handlers=[handler], dynamo_backend="no"
        )


def _layers(model: nn.Module) -> list[str]:
    """The classes of the model's layers, as Hugging Face models name them."""
    named = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return sorted(named & {type(module).__name__ for module in model.modules()})

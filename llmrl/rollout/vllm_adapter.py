"""Serving an adapter as it is: settings for vLLM, and its faults on a CPU mended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor

from llmrl.models.weights import PREFIX
from llmrl.recipe import Lora
from llmrl.rollout.catalogue import VLLM_RANKS


def adapter_options(adapted: Any, lora: Lora) -> dict[str, Any]:
    """vLLM's settings for one adapter on the layers that it adapts."""
    names = {name.rpartition(".")[2] for name, one in adapted.named_modules() if isinstance(one, LoraLayer)}
    rank = min(rank for rank in VLLM_RANKS if rank >= lora.rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank, "lora_target_modules": sorted(names)}


def put_aside(weights: Iterable[tuple[str, Tensor]], factors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The weights of the base; those of the adapter are put into `factors` as they come."""
    for name, weight in weights:
        if name.startswith(PREFIX):
            factors[name] = weight
        else:
            yield name, weight


def dropped_layers(model: Any) -> list[str]:
    """The adapted layers that vLLM has read and does not apply."""
    manager = model.lora_manager
    return [name for adapter in manager.list_adapters().values() for name in adapter.loras.keys() - manager.modules]


def multiply_once(model: Any) -> None:
    """Multiply all tokens by the one adapter's factors: on a CPU, vLLM copies both factors for every token."""

    def shrink(found: Tensor, inputs: Tensor, factor: Tensor, scale: float) -> None:
        found.copy_(scale * (inputs.to(found.dtype) @ factor[0, 0].to(found.dtype).T))

    def expand(found: Tensor, inputs: Tensor, factor: Tensor, start: int, size: int, add_inputs: bool = True) -> None:
        product = inputs.to(found.dtype) @ factor[0, 0].T
        place = found[:, start : start + size]
        place.copy_(place + product if add_inputs else product)

    for wrapper in model.lora_manager.punica_wrapper_mapping.values():
        wrapper._apply_shrink, wrapper._apply_expand = shrink, expand

"""Serving an adapter as it is: settings for vLLM, and its faults on a CPU mended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor

from llmrl.models.weights import PREFIX
from llmrl.recipe import Lora
from llmrl.rollout.catalogue import VLLM_RANKS
from llmrl.rollout.sampler import Completion, SamplingParams


def adapter_options(outlines: Iterable[Any], adapters: Mapping[str, Lora]) -> dict[str, Any]:
    """vLLM's settings for adapters on the layers that they adapt; outlines: the adapted models without weights."""
    modules = [pair for outline in outlines for pair in outline.named_modules()]
    names = {name.rpartition(".")[2] for name, one in modules if isinstance(one, LoraLayer)}
    rank = min(rank for rank in VLLM_RANKS if rank >= max(lora.rank for lora in adapters.values()))
    count = len(adapters)
    return {"enable_lora": True, "max_loras": count, "max_lora_rank": rank, "lora_target_modules": sorted(names)}


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
    """Multiply each adapter's tokens by its factors at once: on a CPU, vLLM copies both factors for every token."""
    for wrapper in model.lora_manager.punica_wrapper_mapping.values():
        products = _Products(wrapper)
        wrapper._apply_shrink, wrapper._apply_expand = products.shrink, products.expand


class _Products:
    """The products of a step's tokens with the factors of their adapters, which are stacked in vLLM's slots."""

    def __init__(self, wrapper: Any):
        self._update, self._wrapper = wrapper.update_metadata, wrapper
        wrapper.update_metadata = self._see
        self._slots: list[tuple[int, Any]] = []

    def _see(self, *args: Any, **kwargs: Any) -> None:
        """Note the places of each slot's tokens in the step that begins; tokens of the base alone have slot -1."""
        self._update(*args, **kwargs)
        indices = self._wrapper.token_lora_indices
        slots = indices.unique().tolist()
        places = [slice(None)] if len(slots) == 1 else [(indices == slot).nonzero()[:, 0] for slot in slots]
        self._slots = [(slot, rows) for slot, rows in zip(slots, places, strict=True) if slot >= 0]

    def shrink(self, found: Tensor, inputs: Tensor, factor: Tensor, scale: float) -> None:
        for slot, rows in self._slots:
            found[rows] = scale * (inputs[rows].to(found.dtype) @ factor[slot, 0].to(found.dtype).T)

    def expand(
        self, found: Tensor, inputs: Tensor, factor: Tensor, start: int, size: int, add_inputs: bool = True
    ) -> None:
        place = found[:, start : start + size]
        for slot, rows in self._slots:
            product = inputs[rows].to(found.dtype) @ factor[slot, 0].T
            place[rows] = place[rows] + product if add_inputs else product


class AdapterSampler:
    """One adapter's sampler, or that of the base alone, on an engine that holds the base once."""

    def __init__(self, base: Any, adapter: str | None):
        self.base, self.takes_adapter, self.policy_version = base, adapter is not None, -1
        self._adapter = adapter

    def with_adapter(self, adapter: str | None) -> Any:
        return self.base.with_adapter(adapter)

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        found = await self.base.sample_by(self._adapter, token_ids, params)
        return replace(found, policy_version=self.policy_version)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> None:
        self.base.load_of(self._adapter, weights)
        self.policy_version = policy_version

    def close(self) -> None:
        """The engine is closed by its holder."""

"""A language model's weights by name: those of its base, those of its LoRA adapter, or both merged into one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

PREFIX = "base_model.model."
"""Begins the name of an adapter's weight, as in peft's files; no other weight is named so."""
FACTORS = frozenset({"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"})

Weights = Iterator[tuple[str, Tensor]]
Whole = Callable[[nn.Parameter], Tensor]
"""From a parameter, of which this process may hold a slice, to all of it."""
Form = Callable[[nn.Module, Whole], Weights]
"""One of the three forms below: a function from a model to its (name, tensor) pairs."""


@dataclass
class Rounding:
    """The part of an adapter's change that is left once base plus change is rounded to `dtype`.

    With base W, change D and the rounded difference E = round(W + D) - round(W), as sums over all adapted weights:
    kept = <E, D> / <D, D>, error = |E - D| / |D|. Both are nan while no adapter changes anything.
    """

    dtype: torch.dtype
    along: float = 0.0
    wanted: float = 0.0
    missed: float = 0.0

    def see(self, base: Tensor, change: Tensor) -> None:
        """Add one weight's base and change: fp32."""
        left = (base + change).to(self.dtype).float() - base.to(self.dtype).float()
        self.along += float((left * change).sum())
        self.wanted += float(change.square().sum())
        self.missed += float((left - change).square().sum())

    @property
    def kept(self) -> float:
        """The rounded change along the true one; 1 if nothing is lost."""
        return self.along / self.wanted if self.wanted else math.nan

    @property
    def error(self) -> float:
        """The size of the difference of both changes, relative to the true one."""
        return math.sqrt(self.missed / self.wanted) if self.wanted else math.nan


def held(parameter: nn.Parameter) -> Tensor:
    """The parameter's tensor, where a process holds all of it."""
    return parameter.detach()


def base_parameters(lm: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are no adapter's, by Hugging Face name."""
    named = {name: parameter for name, parameter in lm.named_parameters() if not FACTORS & set(name.split("."))}
    return {_published(name): parameter for name, parameter in named.items()}


def kept_buffers(lm: nn.Module) -> dict[str, Tensor]:
    """The buffers that are saved with a model, such as DeepSeek-V3's corrections of its router, by Hugging Face name.

    An engine neither divides nor rounds them.
    """
    saved = lm.state_dict().keys()
    return {_published(name): buffer for name, buffer in lm.named_buffers() if name in saved}


def _published(name: str) -> str:
    """The name without what peft adds."""
    return name.removeprefix(PREFIX).replace(".base_layer", "")


def adapter_parameters(lm: Any, adapter: str | None = None) -> dict[str, nn.Parameter]:
    """The factors of one adapter, by the names of peft's files; adapter: a PeftModel's active one, unless given."""
    adapter = adapter or (str(lm.active_adapter) if isinstance(lm, PeftModel) else "")
    found = {}
    for name, parameter in lm.named_parameters():
        parts = name.removeprefix(PREFIX).split(".")
        place = next((place for place, part in enumerate(parts) if part in FACTORS), None)
        if place is not None and parts[place + 1] == adapter:
            found[PREFIX + ".".join(parts[: place + 1] + parts[place + 2 :])] = parameter
    return found


def base_weights(lm: nn.Module, whole: Whole = held) -> Weights:
    """The weights without any adapter, by Hugging Face name, one at a time."""
    for name, parameter in base_parameters(lm).items():
        yield name, whole(parameter)
    yield from kept_buffers(lm).items()


def adapter_weights(lm: nn.Module, whole: Whole = held) -> Weights:
    """The factors of the active adapter, and a reward model's head, by the names of peft's files, one at a time."""
    for name, parameter in adapter_parameters(lm).items():
        yield name, whole(parameter)
    for name, parameter in lm.named_parameters() if isinstance(lm, PeftModel) else ():
        if name == f"{PREFIX}score.weight":
            yield name, whole(parameter)


@torch.no_grad()
def merged_weights(lm: nn.Module, whole: Whole = held, *, rounding: Rounding | None = None) -> Weights:
    """The weights with the active adapters merged into them, by Hugging Face name, one at a time.

    An adapted weight is fp32, since rounding the sum may undo a small change; the others come as they are. rounding:
    sums up what rounding would leave of the change.
    """
    layers = adapted_layers(lm)
    for name, parameter in base_parameters(lm).items():
        weight = whole(parameter)
        change = change_of(layers[name], whole) if name in layers else None
        if change is not None:
            base = weight.float()
            weight = base + change
            if rounding is not None:
                rounding.see(base, change)
        yield name, weight
    yield from kept_buffers(lm).items()


def adapted_layers(lm: nn.Module) -> dict[str, Any]:
    """The layers that have adapters, by the Hugging Face names of the weights that these change."""
    layers = {id(adapted_parameter(module)): module for module in lm.modules() if isinstance(module, LoraLayer)}
    named = base_parameters(lm).items()
    return {name: layers[id(parameter)] for name, parameter in named if id(parameter) in layers}


def change_of(layer: Any, whole: Whole = held) -> Tensor | None:
    """The change of a layer's weight by those active adapters that adapt this layer, if any: fp32."""
    adapters = [one for one in layer.active_adapters if one in layer.lora_A or one in layer.lora_embedding_A]
    products = [_product(layer, adapter, whole) for adapter in adapters]
    return sum(products[1:], products[0]) if products else None


def adapted_parameter(layer: Any) -> nn.Parameter:
    """The parameter that an adapted layer changes: its weight, or the one that peft was asked to target."""
    return getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"))


def _product(layer: Any, adapter: str, whole: Whole) -> Tensor:
    """The product of an adapter's factors, which is added to its layer's weight.

        weight [out, in]             B A
        experts [E, out, in]         B_e A_e of each expert e, whose factors lie in columns of B and rows of A

    transposed where the layer keeps its weights transposed.
    """
    if adapter in layer.lora_A:
        a, b = (whole(factors[adapter].weight).float() for factors in (layer.lora_A, layer.lora_B))
        transposed = layer.fan_in_fan_out
    else:  # an embedding
        a, b = (whole(factors[adapter]).float() for factors in (layer.lora_embedding_A, layer.lora_embedding_B))
        transposed = True
    experts = getattr(layer, "num_experts", 1)
    if experts > 1:
        transposed = getattr(layer.get_base_layer(), "is_transposed", False)
        a, b = a.reshape(experts, -1, a.shape[-1]), b.reshape(b.shape[0], -1, experts).permute(2, 0, 1)
    product = (b @ a) * layer.scaling[adapter]
    return product.transpose(-2, -1) if transposed else product

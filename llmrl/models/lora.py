"""The adapters that a LoRA run trains on a model that stays as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmrl.errors import RecipeError, first_line, unknown_name
from llmrl.models.weights import adapted_parameter, base_parameters
from llmrl.recipe import Lora


def add_lora(model: PreTrainedModel, lora: Lora, name: str = "default") -> PeftModel:
    """`model` with an adapter as its only trainable weights, beside a reward model's head; raises RecipeError if it
    fits no layer of it."""
    head = getattr(model, "score", None)

    def put(settings: LoraConfig) -> PeftModel:
        return cast(PeftModel, get_peft_model(model, settings, name, autocast_adapter_dtype=False))

    adapted = _fitted(model, lora, put, "model.lora", scores=head is not None)
    if head is not None:  # whole, as it starts from random numbers
        head.requires_grad_(True)
    return adapted


def add_adapter(lm: PreTrainedModel | PeftModel, lora: Lora, name: str, owner: str) -> PeftModel:
    """The adapted model with another adapter, `name`, beside those that it has; raises RecipeError if it has none.

    owner: the role that the model belongs to.
    """
    key = f"roles.{name}.model.lora"
    if not isinstance(lm, PeftModel):
        raise RecipeError(
            f"{key}: adapts the base of {owner}, but all weights of {owner} are trained; give {owner} a lora too"
        )

    def put(settings: LoraConfig) -> PeftModel:
        lm.add_adapter(name, settings)
        return lm

    _fitted(lm.get_base_model(), lora, put, key)
    lm.set_adapter(name)
    return lm


def add_adapters(model: Any, adapters: Mapping[str, Lora]) -> Any:
    """`model` with several adapters in its own dtype, of which the first is active; unchanged if there are none."""
    for name, lora in adapters.items():
        if isinstance(model, PeftModel):
            model.add_adapter(name, _lora_config(lora), autocast_adapter_dtype=False)
        else:
            model = add_lora(model, lora, name)
    return model


def _fitted(
    model: Any, lora: Lora, put: Callable[[LoraConfig], PeftModel], key: str, *, scores: bool = False
) -> PeftModel:
    """The model with the adapter that `put` adds to it; key: that of the adapter's settings in the recipe."""
    settings, names = _lora_config(lora, scores=scores), f"{key}.target_modules"
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    linear = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, torch.nn.Linear | LoraLayer)}
    try:
        with warnings.catch_warnings():  # of patterns that peft itself makes, for the ranks of fused experts
            warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
            adapted = put(settings)
    except ValueError as error:
        fault = first_line(error)
        if "lora_dropout" in fault:
            told = f"{key}.dropout: {lora.dropout:g}, but adapters of experts have none; leave it out"
            raise RecipeError(told) from None
        _refuse_unknown_layers(names, model, settings.target_modules, linear)
        raise RecipeError(f"{names}: {lora.target_modules!r}: {fault}") from None
    _refuse_unknown_layers(names, model, settings.target_modules, linear)  # no fused experts: peft has renamed those
    layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    if model.config.tie_word_embeddings and any(id(layer.get_base_layer()) in ends for layer in layers):
        raise RecipeError(
            f"{names}: this model ties its embeddings, so they cannot be adapted: merging would untie them"
        )
    return adapted


def adapted_outline(config: Any, lora: Lora) -> Any:
    """The adapted model without weights."""
    with torch.device("meta"):
        return add_lora(AutoModelForCausalLM.from_config(config), lora)


def frozen_experts(adapted: PeftModel) -> int:
    """The number of parameters of fused experts that have no adapter: peft knows those of some architectures alone."""
    adapting = {id(adapted_parameter(layer)) for layer in adapted.modules() if isinstance(layer, LoraLayer)}
    experts = [p for name, p in base_parameters(adapted).items() if ".experts." in name and p.dim() == 3]
    return sum(parameter.numel() for parameter in experts if id(parameter) not in adapting)


def _refuse_unknown_layers(key: str, model: Any, listed: Any, linear: set[str]) -> None:
    """Raises RecipeError for each of the listed names that no layer has; peft leaves such names out in silence."""
    layers, names = dict(model.named_modules()), () if isinstance(listed, str) else sorted(listed or ())
    unknown = [name for name in names if not any(f".{layer}".endswith(f".{name}") for layer in layers)]
    if unknown:
        raise RecipeError(*(unknown_name(key, name, linear, "layer") for name in unknown))


def _lora_config(lora: Lora, *, scores: bool = False) -> LoraConfig:
    """peft's settings; scores: of a reward model, whose head is left to `add_lora`."""
    layers = lora.target_modules
    if isinstance(layers, str) and layers.isidentifier():
        layers = [layers]  # peft would take a text for a pattern of whole paths
    return LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),  # any number is accepted
        lora_dropout=lora.dropout,
        target_modules=layers,
        exclude_modules=["score"] if scores else None,
        task_type=None if scores else "CAUSAL_LM",
    )

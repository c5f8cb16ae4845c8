"""The check of how a trained adapter reaches the sampler: as it is, or merged into the weights."""

from __future__ import annotations

import importlib.util
from typing import Any

from llmrl.check.report import Report, count_text
from llmrl.models.lora import adapted_outline, frozen_experts
from llmrl.pieces import resolve
from llmrl.recipe import Recipe
from llmrl.rollout.catalogue import CATALOGUE as SAMPLERS


def check_adapter(recipe: Recipe, config: Any, report: Report) -> None:
    """Say whether the sampler is given the adapter; warnings where bf16 would lose much of a merged one, and where
    experts have none."""
    lora, engine = recipe.model.lora, recipe.rollout.engine
    if lora is None:
        return
    asks_for_all = lora.target_modules == "all-linear"
    if asks_for_all and (frozen := frozen_experts(adapted_outline(config, lora))):
        report.warn(
            f"model.lora.target_modules: all-linear, but peft adapts no experts of {config.model_type}; their "
            f"{count_text(frozen)} parameters stay as they are"
        )
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        return
    reason = None
    if engine == "vllm":
        from llmrl.rollout.vllm_sampler import reason_to_merge

        reason = reason_to_merge(config, lora)
    elif "adapters" not in resolve(engine, SAMPLERS, key="rollout.engine", what="sampler").data:
        reason = f"{engine} does not name adapters"
    if reason is None:
        report.say("adapter", f"of rank {lora.rank}, given to the sampler as it is")
    elif recipe.training.dtype == "bf16":
        report.warn(
            f"model.lora: the sampler gets the adapter merged and rounded to bf16, because {reason}; a small change is "
            "lost in rounding, and the metric adapter_kept says how much is left"
        )
    else:
        report.say("adapter", f"of rank {lora.rank}, merged for the sampler, because {reason}")

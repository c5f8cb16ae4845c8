"""The check of how a trained adapter reaches the sampler: as it is, or merged into the weights."""

from __future__ import annotations

import importlib.util
from typing import Any

from llmrl.check.report import Report
from llmrl.pieces import resolve
from llmrl.recipe import Recipe
from llmrl.rollout.catalogue import CATALOGUE as SAMPLERS


def check_adapter(recipe: Recipe, config: Any, report: Report) -> None:
    """Say whether the sampler is given the adapter; a warning where bf16 would lose much of a merged one."""
    lora, engine = recipe.model.lora, recipe.rollout.engine
    if lora is None or (engine == "vllm" and importlib.util.find_spec("vllm") is None):
        return
    reason = None
    if engine == "vllm":
        from llmrl.rollout.vllm_sampler import reason_to_merge

        reason = reason_to_merge(config, lora)
    elif "lora" not in resolve(engine, SAMPLERS, key="rollout.engine", what="sampler").data:
        reason = f"{engine} does not name lora"
    if reason is None:
        report.say("adapter", f"of rank {lora.rank}, given to the sampler as it is")
    elif recipe.training.dtype == "bf16":
        report.warn(
            f"model.lora: the sampler gets the adapter merged and rounded to bf16, because {reason}; a small change is "
            "lost in rounding, and the metric adapter_kept says how much is left"
        )
    else:
        report.say("adapter", f"of rank {lora.rank}, merged for the sampler, because {reason}")

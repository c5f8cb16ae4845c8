"""The samplers that a recipe can name under `rollout.engine`; each is imported when it is made.

A function here, or a user's `module:function`, makes a sampler. It takes, by name, any of folder, tokenizer, dtype,
device, max_model_len, max_concurrent, options and lora: the settings of the adapter that is trained, or None. One that
does not name lora is given merged weights.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llmrl.recipe import Lora
from llmrl.rollout.sampler import Sampler

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks of adapters that vLLM can be prepared for."""


def vllm(
    folder: Path,
    tokenizer: Any,
    dtype: Any,
    max_model_len: int,
    max_concurrent: int,
    options: dict[str, Any],
    lora: Lora | None = None,
) -> Sampler:
    """vLLM in this process."""
    from llmrl.rollout.vllm_sampler import VllmSampler

    return VllmSampler(
        folder,
        tokenizer,
        dtype=dtype,
        max_model_len=max_model_len,
        max_concurrent=max_concurrent,
        options=options,
        lora=lora,
    )


def transformers(folder: Path, tokenizer: Any, dtype: Any, device: torch.device, lora: Lora | None = None) -> Sampler:
    """transformers' own generation, for very small models and machines without vLLM."""
    from llmrl.models.loading import load_language_model
    from llmrl.rollout.transformers_sampler import TransformersSampler

    model: Any = load_language_model(folder, dtype, lora)
    return TransformersSampler(model.to(device), tokenizer)


CATALOGUE: dict[str, Callable[..., Sampler]] = {"transformers": transformers, "vllm": vllm}

"""The samplers that a recipe can name under `rollout.engine`; each is imported when it is made.

A function here, or a user's `module:function`, makes a sampler. It takes, by name, any of folder, tokenizer, dtype,
device, max_model_len, max_concurrent, options and adapters: the settings of each adapter that is trained on the model,
by name. It is the sampler of the first of them, or of the model itself if there is none. A maker that does not name
adapters is given merged weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    adapters: Mapping[str, Lora] | None = None,
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
        adapters=adapters,
    )


def transformers(
    folder: Path, tokenizer: Any, dtype: Any, device: torch.device, adapters: Mapping[str, Lora] | None = None
) -> Sampler:
    """transformers' own generation, for very small models and machines without vLLM."""
    from llmrl.models.loading import load_language_model
    from llmrl.models.lora import add_adapters
    from llmrl.rollout.transformers_sampler import TransformersSampler

    model: Any = add_adapters(load_language_model(folder, dtype), adapters or {})
    return TransformersSampler(model.to(device), tokenizer)


CATALOGUE: dict[str, Callable[..., Sampler]] = {"transformers": transformers, "vllm": vllm}

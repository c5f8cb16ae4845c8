"""The settings of vLLM that depend on the machine: the size of its cache, and of its steps."""

from __future__ import annotations

from typing import Any

import torch

CPU_STEP_TOKENS = 2048
BLOCK = 32
"""Tokens of a block of the cache on a CPU, the least that vLLM takes there."""
CPU_KV_CACHE_LIMIT_BYTES = 4 * 2**30
LEAST_KV_CACHE_BYTES = 64 * 2**20
GPU_MEMORY = ("gpu_memory_utilization", "kv_cache_memory_bytes")
"""Options that say how much of a GPU vLLM takes."""


def machine_options(config: Any, arguments: dict[str, Any], given: dict[str, Any], weights: int) -> dict[str, Any]:
    """vLLM's settings for the GPU, or for the CPU where there is none; weights: the sampler's bytes."""
    if torch.cuda.is_available():
        return gpu_options(config, arguments, given, weights, *torch.cuda.mem_get_info())
    return cpu_options(config, arguments)


def cpu_options(config: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """vLLM's settings for a CPU: no compilation, small blocks, a cache as large as the work, prefills in parts."""
    wanted = _kv_cache_bytes(config, arguments)
    return {
        "enforce_eager": True,
        "block_size": BLOCK,
        "kv_cache_memory_bytes": max(LEAST_KV_CACHE_BYTES, min(wanted, CPU_KV_CACHE_LIMIT_BYTES)),
        "enable_chunked_prefill": True,
        "max_num_batched_tokens": max(CPU_STEP_TOKENS, arguments["max_num_seqs"]),
    }


def gpu_options(
    config: Any, arguments: dict[str, Any], given: dict[str, Any], weights: int, free: int, whole: int
) -> dict[str, Any]:
    """vLLM's share of a GPU that the trainer lives on too: a cache as large as the work, unless the recipe says.

    By itself vLLM takes nine tenths of the GPU and refuses to start where less is free. weights: the sampler's bytes;
    free, whole: the GPU's. The cache gets at most half of what the weights leave, since training needs room as well.
    """
    if any(name in given for name in GPU_MEMORY):
        return {}
    cache = max(LEAST_KV_CACHE_BYTES, min(_kv_cache_bytes(config, arguments), (free - weights) // 2))
    # with a given cache this is only what has to be free at the start
    return {"kv_cache_memory_bytes": cache, "gpu_memory_utilization": min(0.9, (weights + cache) / whole)}


def _kv_cache_bytes(config: Any, arguments: dict[str, Any]) -> int:
    """The keys and values of all completions that run at once, in whole blocks, and a block that vLLM keeps empty."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * heads * head_dim * (4 if arguments["dtype"] == "float32" else 2)
    blocks = arguments["max_num_seqs"] * -(-arguments["max_model_len"] // BLOCK) + 1
    return per_token * blocks * BLOCK

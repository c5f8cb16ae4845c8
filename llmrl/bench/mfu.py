"""Model FLOPs utilization of training: the FLOPs that a step's update needs over those that the device could do.

It is run as a process; its argument is JSON with the fields of `padding.batch_of`, the recipe's file, overrides of it,
and rounds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch

from llmrl.bench.padding import batch_of
from llmrl.bench.parts import Parts, device, seconds
from llmrl.train.provide import provide
from llmrl.train.step import update

DENSE_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""FLOPs a second of devices, from their data sheets; those of others are measured by a product of matrices."""
PRODUCT = {"cuda": 8192, "cpu": 512}


def main() -> None:
    """Update a few times on one batch, and print the utilization as JSON; the first update does not count."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    actor = Parts.of(Path(given["recipe"]), "regularizers=null", *given.get("overrides", ())).actor
    batch = batch_of(given)
    taken = [seconds(lambda: update(actor, provide(actor, batch), seed=0)) for _ in range(1 + given["rounds"])][1:]
    tokens = given["groups"] * (given["prompt_tokens"] + given["group_size"] * given["completion_tokens"])
    lm: Any = actor.learner.engine.model.lm
    needed = update_flops(lm, tokens, given["prompt_tokens"] + given["completion_tokens"])
    best, where = peak_flops(next(lm.parameters()).dtype)
    print(json.dumps({"mfu": needed / median(taken) / best, "seconds": taken, "tokens": tokens, "peak": where}))


def update_flops(lm: Any, tokens: int, length: int) -> float:
    """FLOPs of forward and backward: 6 for each weight and token, and 6 width x length a layer for attention.

    A prompt counts once for its group. The embedding is looked up, not multiplied. Causal attention sees half of
    `length`: of its two products, forward and twice backward, 2 x 2 x 3 x width x length / 2 FLOPs.
    """
    config = lm.config.get_text_config()
    weights = sum(parameter.numel() for parameter in lm.parameters())
    if not config.tie_word_embeddings:
        weights -= lm.get_input_embeddings().weight.numel()
    width = config.num_attention_heads * getattr(config, "head_dim", config.hidden_size // config.num_attention_heads)
    return tokens * (6.0 * weights + 6.0 * config.num_hidden_layers * width * length)


def peak_flops(dtype: torch.dtype) -> tuple[float, str]:
    """The device's FLOPs a second, and where they are known from."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    for known, flops in DENSE_BF16.items():
        if known in name:
            return flops, f"data sheet of {known}"
    size = PRODUCT[device().type]
    matrix = torch.ones(size, size, device=device(), dtype=dtype)
    return 2.0 * size**3 / min(seconds(torch.mm, matrix, matrix) for _ in range(5)), f"a product of matrices on {name}"


if __name__ == "__main__":
    main()

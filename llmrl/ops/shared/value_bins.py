"""The values of a distributional critic, whose outputs are the logits of a distribution over them."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import require_range


def bin_values(outputs: Tensor, *, low: float, high: float) -> Tensor:
    """K values evenly spaced from `low` to `high`, one for each of the K outputs [..., K]: [K] fp32.

    Raises ValueError for a `low` that is not below `high`, and for fewer than 2 outputs.
    """
    require_range(low, high)
    if outputs.shape[-1] < 2:
        raise ValueError(
            f"outputs: {outputs.shape[-1]} per token is not valid, expected at least 2, one for each value from "
            f"low = {low} to high = {high}"
        )
    return torch.linspace(low, high, outputs.shape[-1], device=outputs.device)


def require_single(outputs: Tensor) -> None:
    """Raises ValueError unless a critic has one output per token [..., 1]."""
    if outputs.shape[-1] != 1:
        raise ValueError(f"outputs: {outputs.shape[-1]} per token is not valid, expected 1; set critic.outputs")

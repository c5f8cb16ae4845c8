"""Per-trajectory views of [N, T] data: means over response tokens, and where a response ends."""

from __future__ import annotations

import torch
from torch import Tensor


def row_means(values: Tensor, response_mask: Tensor) -> Tensor:
    """Each trajectory's mean of `values` over its response tokens, 0 where it has none: [N] fp64."""
    total = torch.where(response_mask, values, 0.0).double().sum(dim=1)
    return total / response_mask.sum(dim=1).clamp(min=1)


def last_tokens(response_mask: Tensor) -> Tensor:
    """True on the last response token of each trajectory that has one: [N, T] bool."""
    tokens_left = response_mask.flip(1).cumsum(1).flip(1)
    return response_mask & (tokens_left == 1)

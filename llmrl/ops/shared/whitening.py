"""Whitening: mean 0 and standard deviation 1."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_STD = 1e-6


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """`values` less their mean, over their unbiased (n - 1) standard deviation; both are taken over the mask.

        (x - mean_m x) / std_m x

    values, mask (bool): the same shape. Returns fp64, 0 off the mask. A std under 1e-6 is taken as 1. A single number
    is left as it is.
    """
    values = torch.where(mask, values, 0.0).double()
    count = mask.sum()
    centred = torch.where(mask, values - values.sum() / count.clamp(min=1), 0.0)
    std = (centred.square().sum() / (count - 1).clamp(min=1)).sqrt()
    return torch.where(count > 1, centred / torch.where(std < MIN_STD, 1.0, std), values)

"""Weights that rows bring."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_rows(row_weights: Tensor, response_mask: Tensor) -> Tensor:
    """Multiplies the loss of each trajectory by its row's weight: weight_it = w_i.

    row_weights: [N]; response_mask: [N, T]. With the reduction sequence_mean and weights w_p N / n_p of the n_p rows of
    a part p of the data, the loss is on average the sum over parts of w_p times the part's mean loss.
    """
    return response_mask * row_weights[:, None].to(torch.float32)

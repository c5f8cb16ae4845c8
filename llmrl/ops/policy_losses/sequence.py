"""Losses of a trajectory as a whole, given to each of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.clipping import clip_stats
from llmrl.ops.shared.ranges import refuse_negative
from llmrl.ops.shared.ratio import as_ratio
from llmrl.types import TokenLoss


def gmpo(
    log_ratio: Tensor, advantages: Tensor, response_mask: Tensor, *, clip_low: float = 0.4, clip_high: float = 0.4
) -> TokenLoss:
    """Geometric mean of the tokens' clipped ratios: one outlier token moves it far less than it moves a mean.

        d_t = min(log_ratio_t, clip_high)  where A > 0,  max(log_ratio_t, -clip_low)  where A <= 0
        loss_t = -A exp(mean_k d_k)        the same on all L tokens of the trajectory

    log_ratio, advantages, response_mask: [N, T]; the bounds are in log space. A is the trajectory's advantage: the mean
    over its response tokens, should they differ. Reduced by sequence_mean a trajectory's loss is -A exp(mean d), and
    each token that is not clipped carries the gradient -A exp(mean d) / L. stats: ratio, the geometric mean;
    clip_fraction_low and clip_fraction_high, the tokens at each bound. Raises ValueError for a negative bound. Source:
    GMPO, arXiv 2507.20673.
    """
    refuse_negative(clip_low=clip_low, clip_high=clip_high)
    lengths = response_mask.sum(dim=1, keepdim=True).clamp(min=1)
    log_ratio = torch.where(response_mask, log_ratio.float(), 0.0)
    total = torch.where(response_mask, advantages, 0.0).double().sum(dim=1, keepdim=True)
    advantage = (total / lengths).float()
    positive = advantage > 0
    clipped = torch.where(positive, log_ratio.clamp(max=clip_high), log_ratio.clamp(min=-clip_low))
    ratio = as_ratio(clipped.sum(dim=1, keepdim=True) / lengths)
    fixed = log_ratio.detach()
    low, high = (advantage < 0) & (fixed < -clip_low), positive & (fixed > clip_high)
    loss = torch.where(response_mask, -advantage * ratio, 0.0)
    return TokenLoss(loss, clip_stats(ratio.expand_as(loss), low, high))

"""Losses of the ratio itself, with hard bounds or none."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.clipping import clip_stats, one_with_gradient, past_bounds
from llmrl.ops.shared.ranges import refuse_negative
from llmrl.ops.shared.ratio import as_ratio
from llmrl.types import TokenLoss


def surrogate(log_ratio: Tensor, advantages: Tensor) -> TokenLoss:
    """The importance-weighted objective without any bound; a proximal KL regularizer has to hold the step.

        loss_t = -A_t exp(log_ratio_t)

    log_ratio, advantages: [N, T]. stats: ratio. Source: MDPO, arXiv 2005.09814.
    """
    ratio = as_ratio(log_ratio)
    return TokenLoss(-advantages * ratio, {"ratio": ratio.detach()})


def ppo_clip(
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> TokenLoss:
    """Clipped surrogate: a token stops pulling once its ratio has left the bounds in A's direction.

        r_t = exp(log_ratio_t)
        loss_t = max(-A_t r_t, -A_t clip(r_t, 1 - clip_low, 1 + clip_high))
        loss_t = min(loss_t, -A_t dual_clip)  where A_t < 0, if dual_clip is set

    log_ratio, advantages: [N, T]. clip_high above clip_low is DAPO's clip-higher; dual_clip bounds the loss of a bad
    token that became likely, and is the upper bound of two-sided clipping. stats: ratio; clip_fraction_low and
    clip_fraction_high, the tokens whose gradient the lower and the upper bound removed; clip_fraction_dual, the tokens
    at dual_clip. Raises ValueError for a negative bound, or if dual_clip is not above 1 + clip_high, where it would
    undo the first clip. Source: PPO, arXiv 1707.06347; dual clip, arXiv 1912.09729; clip-higher, DAPO, arXiv
    2503.14476; two-sided clipping, INTELLECT-2, arXiv 2505.07291.
    """
    refuse_negative(clip_low=clip_low, clip_high=clip_high)
    ratio = as_ratio(log_ratio)
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    stats = clip_stats(ratio, *past_bounds(ratio.detach(), advantages, clip_low, clip_high))
    if dual_clip is not None:
        _refuse_low_dual_clip(dual_clip, clip_high)
        negative = advantages < 0
        loss = torch.where(negative, torch.minimum(loss, -advantages * dual_clip), loss)
        stats["clip_fraction_dual"] = (negative & (ratio.detach() > dual_clip)).float()
    return TokenLoss(loss, stats)


def gppo(
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    beta_low: float = 1.0,
    beta_high: float = 1.0,
    dual_clip: float = 10.0,
) -> TokenLoss:
    """Clipped surrogate that keeps a bounded gradient where the clip would have removed it.

        loss_t = -A_t beta_low (1 - clip_low) r_t / sg(r_t)      where A_t < 0 and r_t < 1 - clip_low
        loss_t = -A_t beta_high (1 + clip_high) r_t / sg(r_t)    where A_t > 0 and r_t > 1 + clip_high
        loss_t = -A_t min(r_t, dual_clip)                        where A_t < 0 otherwise
        loss_t = -A_t r_t                                        elsewhere

    log_ratio, advantages: [N, T]. Betas of 1 are GPPO, of 0 PPO; in CE-GPPO they differ: beta_high weighs good tokens
    that have become likely and keeps the entropy up, beta_low weighs bad tokens that have become rare and lowers it.
    stats: as ppo_clip; clip_fraction_low and clip_fraction_high are the tokens that a beta weighs. Raises ValueError
    for a negative bound or beta, or if dual_clip is not above 1 + clip_high.
    Source: GPPO, arXiv 2508.07629; CE-GPPO, arXiv 2509.20712.
    """
    refuse_negative(clip_low=clip_low, clip_high=clip_high, beta_low=beta_low, beta_high=beta_high)
    _refuse_low_dual_clip(dual_clip, clip_high)
    ratio = as_ratio(log_ratio).detach()
    low, high = past_bounds(ratio, advantages, clip_low, clip_high)
    dual = (advantages < 0) & (ratio > dual_clip)
    weight = torch.where(low, beta_low * (1 - clip_low), torch.where(high, beta_high * (1 + clip_high), ratio))
    bounded = torch.where(dual, dual_clip, weight * one_with_gradient(log_ratio))
    stats = clip_stats(ratio, low, high) | {"clip_fraction_dual": dual.float()}
    return TokenLoss(-advantages * bounded, stats)


def _refuse_low_dual_clip(dual_clip: float, clip_high: float) -> None:
    if dual_clip <= 1 + clip_high:
        raise ValueError(f"dual_clip: {dual_clip} is not valid, expected above 1 + clip_high = {1 + clip_high}")

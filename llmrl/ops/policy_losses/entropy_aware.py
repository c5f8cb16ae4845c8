"""Losses that treat tokens of high entropy differently from the rest.

A token has high entropy if the old policy's entropy there is above a quantile, with linear interpolation, of that
entropy over the token's own response. A response whose entropies are all equal has no such token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmrl.ops.policy_losses.clipped import ppo_clip
from llmrl.ops.shared.clipping import clip_stats, one_with_gradient, past_bounds
from llmrl.ops.shared.ranges import refuse_negative, require_fraction, require_positive
from llmrl.ops.shared.ratio import as_ratio
from llmrl.types import TokenLoss


def aspo(
    logprobs: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    old_entropy: Tensor,
    response_mask: Tensor,
    *,
    clip_low_entropy: float = 0.2,
    clip_high_entropy: float = 0.4,
    entropy_quantile: float = 0.8,
    dual_clip: float = 3.0,
) -> TokenLoss:
    """Clipped surrogate with the ratio inverted for good tokens, so that unlikely ones get the largest gradient.

        clip = clip_high_entropy at tokens of high entropy, else clip_low_entropy
        w_t = max(r_t, 1 - clip)  where A_t < 0,  1 / min(r_t, 1 + clip)  elsewhere
        gradient on log pi(y_t): -A_t min(w_t, dual_clip), or 0 where r_t is past the bound
        loss_t = -A_t w_t, or -A_t dual_clip log pi(y_t) where w_t > dual_clip

    All data [N, T]; r_t = exp(log_ratio_t); entropies in nats. stats: ratio; clip_fraction_low and clip_fraction_high,
    the tokens whose gradient a bound removed; clip_fraction_dual, those at dual_clip. Raises ValueError for a negative
    range, a quantile outside [0, 1], or a dual_clip not above 1, which would bind at ratio 1. Source: ASPO, arXiv
    2510.06062.
    """
    refuse_negative(clip_low_entropy=clip_low_entropy, clip_high_entropy=clip_high_entropy)
    if dual_clip <= 1:
        raise ValueError(f"dual_clip: {dual_clip} is not valid, expected a number above 1")
    logprobs, log_ratio, advantages = _on_response(response_mask, logprobs, log_ratio, advantages)
    clip = torch.where(_high_entropy(old_entropy, response_mask, entropy_quantile), clip_high_entropy, clip_low_entropy)
    ratio = as_ratio(log_ratio).detach()
    low, high = past_bounds(ratio, advantages, clip, clip)
    weight = torch.where(advantages < 0, ratio.maximum(1 - clip), 1 / ratio.minimum(1 + clip))
    dual = (weight > dual_clip) & (advantages != 0)
    pulling = torch.where(low | high, 1.0, one_with_gradient(log_ratio))
    loss = -advantages * torch.where(dual, dual_clip * logprobs, weight * pulling)
    return TokenLoss(loss, clip_stats(ratio, low, high) | {"clip_fraction_dual": dual.float()})


def simko(
    log_ratio: Tensor,
    advantages: Tensor,
    correct: Tensor,
    old_entropy: Tensor,
    token_ids: Tensor,
    old_top_ids: Tensor,
    top_logprobs: Tensor,
    response_mask: Tensor,
    *,
    candidates: int = 3,
    share: float = 0.01,
    entropy_quantile: float = 0.8,
    argmax_penalty: float = 1.1,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> TokenLoss:
    """PPO that, at tokens of high entropy, shares a success among likely tokens and penalises a failed argmax more.

        r'_t = (1 - share) r_t + share / K sum_k sg(r_t / r_tk) r_tk    high entropy, correct trajectory
        A'_t = argmax_penalty A_t                                       high entropy, wrong, y_t the old argmax
        loss_t = max(-A'_t r'_t, -A'_t clip(r'_t, 1 - clip_low, 1 + clip_high))

    r' has the value of r; of its gradient `share` goes in equal parts to the K = candidates tokens that the old policy
    held most likely. correct: [N], 1, 0 or nan, where nan means plain PPO; old_top_ids [N, T, >= K] most likely first
    and top_logprobs, their log-probabilities now, with gradient; all else [N, T]. stats: as ppo_clip; spread_fraction
    and penalized_fraction, the tokens of either case. Raises ValueError for a setting out of range, or more candidates
    than old_top_ids has. Source: SimKO, arXiv 2510.14807.
    """
    require_fraction(share=share)
    require_positive(argmax_penalty=argmax_penalty)
    if not 1 <= candidates <= old_top_ids.shape[-1]:
        raise ValueError(f"candidates: {candidates} is not valid, expected from 1 to {old_top_ids.shape[-1]}")
    log_ratio, advantages = _on_response(response_mask, log_ratio, advantages)
    high = _high_entropy(old_entropy, response_mask, entropy_quantile)
    spread = high & (correct == 1).unsqueeze(1)
    penalized = high & (correct == 0).unsqueeze(1) & (token_ids == old_top_ids[..., 0])
    # r_k / sg(r_k) is the candidate's pi / sg(pi): its old probability cancels
    top = top_logprobs[..., :candidates].float().mean(dim=-1)
    moved = torch.where(spread, (1 - share) * log_ratio + share * top, log_ratio)
    log_ratio = log_ratio.detach() + (moved - moved.detach())
    advantages = torch.where(penalized, argmax_penalty * advantages, advantages)
    result = ppo_clip(log_ratio, advantages, clip_low=clip_low, clip_high=clip_high)
    stats = {"spread_fraction": spread.float(), "penalized_fraction": penalized.float()}
    return TokenLoss(result.loss, result.stats | stats)


def _high_entropy(old_entropy: Tensor, response_mask: Tensor, entropy_quantile: float) -> Tensor:
    """Tokens whose entropy is above the quantile of their own response: [N, T] bool."""
    require_fraction(entropy_quantile=entropy_quantile)
    entropy = torch.where(response_mask, old_entropy.detach().double(), math.nan)
    return entropy > entropy.nanquantile(entropy_quantile, dim=1, keepdim=True)  # never where either is nan


def _on_response(response_mask: Tensor, *data: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.where(response_mask, x.float(), 0.0) for x in data)

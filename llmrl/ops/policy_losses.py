"""Policy losses per token, unreduced and to be minimised. Every one has the gradient -A at ratio 1.

Where advantages are 0 (off the response mask, or a group of equal outcomes) a token adds nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.log_ratios import MAX_LOG_RATIO
from llmrl.types import TokenLoss


def reinforce(logprobs: Tensor, advantages: Tensor) -> TokenLoss:
    """Score-function loss; exact only for the policy that sampled, hence one optimizer step per batch.

        loss_t = -A_t log pi(y_t)

    logprobs, advantages: [N, T]. Source: Williams 1992.
    """
    return TokenLoss(-advantages * logprobs.float())


def nll(logprobs: Tensor) -> TokenLoss:
    """Negative log-likelihood of the tokens: supervised fine-tuning and rejection sampling.

        loss_t = -log pi(y_t)

    logprobs: [N, T]. Source: maximum likelihood; for accepted samples, RAFT, arXiv 2304.06767.
    """
    return TokenLoss(-logprobs.float())


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

    log_ratio, advantages: [N, T]. clip_high above clip_low is DAPO's clip-higher; dual_clip bounds the push on
    a bad token that became likely. stats: ratio; clip_fraction_low and clip_fraction_high, the tokens whose
    gradient the lower and the upper bound removed; clip_fraction_dual if dual_clip is set.
    Raises ValueError for a negative bound, or if dual_clip is not above 1 + clip_high, where it would undo the
    first clip.
    Source: PPO, arXiv 1707.06347; dual clip, arXiv 1912.09729; clip-higher, DAPO, arXiv 2503.14476.
    """
    _refuse_negative(clip_low=clip_low, clip_high=clip_high)
    ratio = _ratio(log_ratio)
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    fixed, negative = ratio.detach(), advantages < 0
    stats = {
        "ratio": fixed,
        "clip_fraction_low": (negative & (fixed < 1 - clip_low)).float(),
        "clip_fraction_high": ((advantages > 0) & (fixed > 1 + clip_high)).float(),
    }
    if dual_clip is not None:
        if dual_clip <= 1 + clip_high:
            raise ValueError(f"dual_clip: {dual_clip} is not valid, expected above 1 + clip_high = {1 + clip_high}")
        loss = torch.where(negative, torch.minimum(loss, -advantages * dual_clip), loss)
        stats["clip_fraction_dual"] = (negative & (fixed > dual_clip)).float()
    return TokenLoss(loss, stats)


def cispo(
    logprobs: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 1.0,
    clip_high: float = 4.0,
) -> TokenLoss:
    """Score-function loss under a clipped importance weight: the weight is bounded, no gradient is dropped.

        loss_t = -sg(clip(exp(log_ratio_t), 1 - clip_low, 1 + clip_high)) A_t log pi(y_t)

    logprobs, log_ratio, advantages: [N, T]. clip_low 1 means no lower bound. stats: ratio; clip_fraction_low
    and clip_fraction_high, the tokens whose weight sits at the lower and the upper bound. Raises ValueError for a
    negative bound.
    Source: MiniMax-M1, arXiv 2506.13585.
    """
    _refuse_negative(clip_low=clip_low, clip_high=clip_high)
    ratio = _ratio(log_ratio).detach()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    stats = {
        "ratio": ratio,
        "clip_fraction_low": (ratio < 1 - clip_low).float(),
        "clip_fraction_high": (ratio > 1 + clip_high).float(),
    }
    return TokenLoss(-weight * advantages * logprobs.float(), stats)


def _refuse_negative(**bounds: float) -> None:
    for name, value in bounds.items():
        if value < 0:
            raise ValueError(f"{name}: {value} is not valid, expected a number of at least 0")


def _ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.float().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()

"""Score-function losses: a detached weight on the log-probability."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.marks import exact_on_policy
from llmrl.ops.shared.clipping import clip_stats, past_bounds
from llmrl.ops.shared.ranges import refuse_negative, require_positive
from llmrl.ops.shared.ratio import as_ratio
from llmrl.types import TokenLoss


@exact_on_policy("it has no ratio, so it is exact only for the policy that sampled")
def reinforce(logprobs: Tensor, advantages: Tensor) -> TokenLoss:
    """Score-function loss, exact only for the policy that sampled: one optimizer step per batch.

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


def advantage_weighted(logprobs: Tensor, advantages: Tensor, *, beta: float = 1.0, cap: float = 20.0) -> TokenLoss:
    """Imitation of the tokens, more of those that are better than others in the same place.

        loss_t = -min(exp(beta A_t), cap) log pi(y_t)        the weight without gradient

    logprobs, advantages: [N, T]. beta 0 is `nll`. It needs no ratio, whoever wrote the tokens. stats:
    advantage_weight; weights_capped, the share of weights at the cap. Raises ValueError for a beta < 0 or a cap that is
    not positive. Source: AWAC, arXiv 2006.09359; the policy of ILQL, arXiv 2206.11871.
    """
    refuse_negative(beta=beta)
    require_positive(cap=cap)
    raw = (beta * advantages.float()).exp()
    weights = raw.clamp(max=cap).detach()
    return TokenLoss(-weights * logprobs, {"advantage_weight": weights, "weights_capped": (raw > cap).float().detach()})


def dft(logprobs: Tensor) -> TokenLoss:
    """Negative log-likelihood weighted by the token's own probability: unlikely tokens do not dominate.

        loss_t = -sg(pi(y_t)) log pi(y_t)

    logprobs: [N, T]. Its gradient is that of -pi(y_t). Source: dynamic fine-tuning, arXiv 2508.05629.
    """
    logprobs = logprobs.float()
    return TokenLoss(-logprobs.detach().exp() * logprobs)


def cispo(
    logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, *, clip_low: float = 1.0, clip_high: float = 4.0
) -> TokenLoss:
    """Score-function loss under a clipped importance weight: the weight is bounded, no gradient is dropped.

        loss_t = -sg(clip(exp(log_ratio_t), 1 - clip_low, 1 + clip_high)) A_t log pi(y_t)

    logprobs, log_ratio, advantages: [N, T]. clip_low 1 means no lower bound. stats: ratio; clip_fraction_low and
    clip_fraction_high, the tokens whose weight sits at the lower and the upper bound. Raises ValueError for a negative
    bound. Source: MiniMax-M1, arXiv 2506.13585.
    """
    refuse_negative(clip_low=clip_low, clip_high=clip_high)
    ratio = as_ratio(log_ratio).detach()
    weight = ratio.clamp(1 - clip_low, 1 + clip_high)
    stats = clip_stats(ratio, ratio < 1 - clip_low, ratio > 1 + clip_high)
    return TokenLoss(-weight * advantages * logprobs.float(), stats)


def topr(logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, *, cap: float = 1.0) -> TokenLoss:
    """Score-function loss for samples of another policy: bad tokens weigh less as the policy makes them rarer.

        loss_t = -A_t log pi(y_t)                                      where A_t >= 0
        loss_t = -sg(min(exp(log_ratio_t), cap)) A_t log pi(y_t)       where A_t < 0

    logprobs, log_ratio, advantages: [N, T]. The log ratio should be against the policy that sampled; the paper's is the
    trajectory's sum. Outcomes of 0 and 1 need a baseline, or failures weigh nothing. stats: ratio; clip_fraction_high,
    the bad tokens whose weight sits at cap. Raises ValueError if cap is not positive. Source: TOPR, arXiv 2503.14286.
    """
    require_positive(cap=cap)
    ratio = as_ratio(log_ratio).detach()
    negative = advantages < 0
    weight = torch.where(negative, ratio.clamp(max=cap), 1.0)
    stats = {"ratio": ratio, "clip_fraction_high": (negative & (ratio > cap)).float()}
    return TokenLoss(-weight * advantages * logprobs.float(), stats)


def one_sided(
    logprobs: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.6,
    clip_high: float = 2.0,
    importance: bool = False,
) -> TokenLoss:
    """Score-function loss under PPO's stopping rule: the clip regularizes, an importance weight is optional.

        keep_t = not (A_t > 0 and r_t > 1 + clip_high) and not (A_t < 0 and r_t < 1 - clip_low)
        loss_t = -keep_t A_t log pi(y_t)        times sg(r_t) if importance is set

    logprobs, log_ratio, advantages: [N, T]; r_t = exp(log_ratio_t). With importance its gradient is ppo_clip's. stats:
    ratio; clip_fraction_low and clip_fraction_high, the tokens dropped. Raises ValueError for a negative bound. Source:
    REC-OneSide-NoIS and REC-OneSide-IS, arXiv 2509.24203.
    """
    refuse_negative(clip_low=clip_low, clip_high=clip_high)
    ratio = as_ratio(log_ratio).detach()
    low, high = past_bounds(ratio, advantages, clip_low, clip_high)
    weight = torch.where(low | high, 0.0, ratio if importance else 1.0)
    return TokenLoss(-weight * advantages * logprobs.float(), clip_stats(ratio, low, high))

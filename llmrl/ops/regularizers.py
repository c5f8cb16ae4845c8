"""Penalties per token, unreduced; the loss adds each one times a positive weight.

The KL estimators hold for tokens sampled from the current policy; d_t = logprobs_t - ref_logprobs_t.
What a penalty measures and what its gradient moves are two things:

              value, averaged over pi      gradient, averaged over pi
    kl_k1     KL(pi || ref)                0
    kl_k2     KL(pi || ref), 2nd order     of KL(pi || ref)
    kl_k3     KL(pi || ref)                of KL(ref || pi)

So kl_k1 belongs in the token rewards, where the policy gradient does the work, and kl_k2 or kl_k3 in the loss.
Source: Schulman, Approximating KL divergence, 2020; gradients: arXiv 2505.17508, 2510.01555.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.log_ratios import MAX_LOG_RATIO

REWARD_ONLY = {
    "kl_k1": (
        "its gradient as a loss is zero on average, so it regularizes nothing; "
        "subtract it from the token rewards, or use kl_k2 or kl_k3 here"
    ),
}


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Unbiased estimate of KL(pi || ref) that can be negative; for token rewards only (see REWARD_ONLY).

        k1_t = d_t

    logprobs, ref_logprobs: [N, T]. Source: RLHF with KL in the reward, arXiv 1909.08593.
    """
    return logprobs.float() - ref_logprobs.float()


def kl_k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Half the squared log ratio; on average its gradient is that of KL(pi || ref).

        k2_t = d_t^2 / 2

    logprobs, ref_logprobs: [N, T]. Source: Schulman 2020.
    """
    return kl_k1(logprobs, ref_logprobs).square() / 2


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Unbiased, never negative estimate of KL(pi || ref); on average its gradient is that of KL(ref || pi).

        k3_t = exp(-d_t) - 1 + d_t

    logprobs, ref_logprobs: [N, T]. Its gradient per token is 1 - ref/pi: at most 1 where pi is above the
    reference, without bound below, so -d is held under 20. Source: GRPO, arXiv 2402.03300.
    """
    log_ref_ratio = -kl_k1(logprobs, ref_logprobs).clamp(min=-MAX_LOG_RATIO)
    return torch.expm1(log_ref_ratio) - log_ref_ratio  # expm1: exp(x) - 1 loses all digits for small x


def entropy_bonus(entropy: Tensor) -> Tensor:
    """Minus the entropy: as a penalty with a positive weight it keeps the policy spread out.

        penalty_t = -H(pi(. | tokens < t))

    entropy: [N, T] in nats, with gradient. Source: A3C, arXiv 1602.01783.
    """
    return -entropy.float()

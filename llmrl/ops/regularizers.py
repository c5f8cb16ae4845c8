"""Penalties per token, unreduced; the loss adds each one times a positive weight.

The KL estimators hold for tokens sampled from the current policy; d_t = logprobs_t - ref_logprobs_t.
The gradient of an estimator is not the gradient of the divergence that it estimates:

                  value, averaged over pi      gradient, averaged over pi
    kl_k1         KL(pi || ref)                0
    kl_k2         KL(pi || ref), 2nd order     of KL(pi || ref)
    kl_k3         KL(pi || ref)                of KL(ref || pi)

                  value, averaged over pi_old  gradient, averaged over pi_old
    proximal_kl   KL(pi || pi_old)             of KL(pi || pi_old)

So kl_k1 belongs in the token rewards, where the policy gradient does the work, and kl_k2 or kl_k3 in the loss.
Source: Schulman, Approximating KL divergence, 2020; gradients: arXiv 2505.17508, 2510.01555.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmrl.marks import reward_only
from llmrl.ops.log_ratios import MAX_LOG_RATIO
from llmrl.ops.shared.ranges import refuse_negative
from llmrl.ops.shared.ratio import as_ratio

_NO_GRADIENT = (
    "its gradient as a loss is zero on average, so it regularizes nothing; "
    "subtract it from the token rewards, or use kl_k2 or kl_k3 here"
)


@reward_only(_NO_GRADIENT)
def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Unbiased estimate of KL(pi || ref) that can be negative; for token rewards only.

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


def kl_full(policy_kl: Tensor) -> Tensor:
    """KL(pi || ref) of each token's whole distribution, in place of an estimate by the token that was sampled.

        penalty_t = sum over v of pi(v) (log pi(v) - log ref(v))

    policy_kl: [N, T]. Its gradient is exact at each token; like that of kl_k2, it leaves out how a token changes the
    divergence of later ones. Source: Nash learning from human feedback, arXiv 2312.00886.
    """
    return policy_kl.float()


@reward_only(_NO_GRADIENT)
def adaptive_kl_k1(logprobs: Tensor, ref_logprobs: Tensor, adaptive_kl: Tensor) -> Tensor:
    """kl_k1 under a coefficient that the controller adaptive_kl steers; for token rewards only.

        penalty_t = adaptive_kl d_t

    logprobs, ref_logprobs: [N, T]; adaptive_kl: 0-dim, 1 at the start, so the piece's weight is the first
    coefficient. Source: arXiv 1909.08593.
    """
    return adaptive_kl * kl_k1(logprobs, ref_logprobs)


def gated_kl(logprobs: Tensor, ref_logprobs: Tensor, kl_gate: Tensor) -> Tensor:
    """kl_k2 under a coefficient that the controller kl_gate opens: 0 while the policy is near the reference.

        penalty_t = kl_gate d_t^2 / 2

    logprobs, ref_logprobs: [N, T]; kl_gate: 0-dim. Source: SAFE, arXiv 2602.04651, whose penalty is a number without
    gradient; kl_gate is that number's slope in the KL, and kl_k2 has the gradient of the KL.
    """
    return kl_gate * kl_k2(logprobs, ref_logprobs)


def past_kl(logprobs: Tensor, past_logprobs: Tensor, past_moves: Tensor, *, period: int = 1) -> Tensor:
    """kl_k2 to the earlier policy at which the present cycle of `period` moves began.

        penalty_t = (log pi(y_t) - log pi_past(y_t))^2 / 2        past: the newest but (moves mod period)

    logprobs: [N, T]; past_logprobs: [N, T, K], the newest first; past_moves: 0-dim. period 1: the newest; 2: both
    half-steps of mirror prox. Raises ValueError for a period below 1, or one over K. Source: arXiv 2505.19731.
    """
    if not 1 <= period <= past_logprobs.shape[-1]:
        kept = past_logprobs.shape[-1]
        raise ValueError(f"period: {period} is not valid, expected a number from 1 to history.kept {kept}")
    return kl_k2(logprobs, past_logprobs[..., int(past_moves) % period])


def proximal_kl(log_ratio: Tensor) -> Tensor:
    """KL(pi || pi_old) from tokens that the old policy sampled; unbiased and never negative.

        penalty_t = r_t log r_t - r_t + 1        r_t = exp(log_ratio_t)

    log_ratio: [N, T], held within +-20. The gradient per token is r_t log r_t: on average over the old policy that
    of KL(pi || pi_old), and 0 at ratio 1. Source: mirror descent policy optimization, arXiv 2005.09814.
    """
    held = log_ratio.float().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return as_ratio(held) * (torch.expm1(-held) + held)


def absolute_log_ratio(log_ratio: Tensor) -> Tensor:
    """The distance to the old policy's log-probability; KL-Cov applies it to the few most covariant tokens.

        penalty_t = |log_ratio_t|

    log_ratio: [N, T]. No gradient at ratio 1. Source: KL-Cov, arXiv 2505.22617.
    """
    return log_ratio.float().abs()


def nll(logprobs: Tensor) -> Tensor:
    """Negative log-likelihood of the tokens: imitates those that a token weight selects, such as correct ones.

        penalty_t = -log pi(y_t)

    logprobs: [N, T]. Source: positive-example loss, VAPO, arXiv 2504.05118.
    """
    return -logprobs.float()


def entropy_bonus(entropy: Tensor) -> Tensor:
    """Minus the entropy: as a penalty with a positive weight it keeps the policy spread out.

        penalty_t = -H(pi(. | tokens < t))

    entropy: [N, T] in nats, with gradient. Source: A3C, arXiv 1602.01783.
    """
    return -entropy.float()


def entropy_window(
    entropy: Tensor,
    entropy_history: Tensor,
    progress: Tensor,
    *,
    low: float = 0.8,
    high: float = 1.2,
    anneal: bool = True,
) -> Tensor:
    """Holds the entropy within a window around its own past mean.

        penalty_t = b (relu(low h - H_t) + relu(H_t - high h))        h = entropy_history
        b = 1 - 0.2 (1 - exp(-2 u)), u = 2 progress          up to the middle of the stage
            0.8 exp(-3 u),           u = 2 progress - 1      past it; b = 1 without anneal

    entropy: [N, T] in nats, with gradient; entropy_history, progress: 0-dim. Before the first step, where h is nan, the
    penalty is 0. EPO adds entropy_bonus. Raises ValueError unless 0 <= low <= high.
    Source: EPO, arXiv 2509.22576, whose released penalty is constant outside the window and so has no gradient.
    """
    refuse_negative(low=low)
    if low > high:
        raise ValueError(f"low, high: {low}, {high} are not valid, expected low <= high")
    bottom = (low * entropy_history).nan_to_num(nan=-math.inf)
    top = (high * entropy_history).nan_to_num(nan=math.inf)
    outside = torch.relu(bottom - entropy.float()) + torch.relu(entropy.float() - top)
    return _window_strength(float(progress)) * outside if anneal else outside


def _window_strength(progress: float) -> float:
    """1 falls slowly to 0.83 in the first half of a stage, then fast from 0.8 to 0.04."""
    if progress <= 0.5:
        return 1 - 0.2 * (1 - math.exp(-4 * progress))
    return 0.8 * math.exp(-3 * (2 * progress - 1))

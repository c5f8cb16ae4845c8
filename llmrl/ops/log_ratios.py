"""Log of the ratio between the current policy and the policy at step start, one value per token.

    token:         log r_t = log pi(y_t) - log pi_old(y_t)
    behaviour:     the same against the probabilities that the sampler reported
    router_aware:  log r_t less the drift of a mixture's router
    sequence:      mean_t log r_t, the same for every token of the trajectory
    trajectory:    sum_t log r_t, the same for every token of the trajectory

A loss exponentiates a log ratio after clamping it to +-MAX_LOG_RATIO, so that no ratio overflows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0


def token(logprobs: Tensor, old_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """Each token's own log ratio.

        log r_t = logprobs_t - old_logprobs_t

    All [N, T]; the result is 0 where response_mask is False. Source: PPO, arXiv 1707.06347.
    """
    return torch.where(response_mask, logprobs.float() - old_logprobs.float(), 0.0)


def behaviour(logprobs: Tensor, rollout_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """Each token's log ratio to the policy that sampled it, so stale weights and the sampler's arithmetic count.

        log r_t = logprobs_t - rollout_logprobs_t

    All [N, T]; the result is 0 where response_mask is False. Source: TOPR, arXiv 2503.14286.
    """
    return token(logprobs, rollout_logprobs, response_mask)


def router_aware(
    logprobs: Tensor, old_logprobs: Tensor, router_drift: Tensor, response_mask: Tensor, *, floor: float = 0.8
) -> Tensor:
    """Each token's log ratio, shrunk where a mixture-of-experts router has drifted since the step began.

        log r'_t = log r_t + sg(log max(exp(-router_drift_t), floor))

    router_drift: mean |log router - log router_old| over layers and the old policy's chosen experts, >= 0. Its gradient
    is stopped: it is a weight on the ratio. All [N, T]; the result is 0 where response_mask is False. Raises ValueError
    if floor, a ratio, lies outside (0, 1]. Source: RSPO, arXiv 2510.23027.
    """
    if not 0 < floor <= 1:
        raise ValueError(f"floor: {floor} is not valid, expected a number above 0 and at most 1")
    shrinkage = router_drift.detach().float().clamp(max=-math.log(floor))
    return torch.where(response_mask, token(logprobs, old_logprobs, response_mask) - shrinkage, 0.0)


def sequence(logprobs: Tensor, old_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """The trajectory's length-normalised log ratio on every one of its tokens.

        log s_t = sg(mean_k (logprobs_k - old_logprobs_k)) + logprobs_t - sg(logprobs_t)

    sg stops the gradient: the value is the sequence's, the gradient is the token's own with coefficient 1, so
    after a mean over the L tokens of a trajectory each one carries 1/L. Ratios stay so near 1 that clip bounds
    are of the order 3e-4. All [N, T]; the result is 0 where response_mask is False.
    Source: GSPO, arXiv 2507.18071 (the token-advantage form).
    """
    difference = token(logprobs, old_logprobs, response_mask)
    lengths = response_mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (difference.sum(dim=1, keepdim=True) / lengths).detach()
    return torch.where(response_mask, mean + (difference - difference.detach()), 0.0)


def trajectory(logprobs: Tensor, old_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """The trajectory's whole log ratio on every one of its tokens: how much likelier the answer has become.

        log p_t = sg(sum_k (logprobs_k - old_logprobs_k)) + L (logprobs_t - sg(logprobs_t))

    L counts the trajectory's response tokens. sequence_mean weighs each token by 1 / L, so the loss -A p has the value
    and the gradient of the mean over trajectories of -A_i pi(y_i) / pi_old(y_i), also where A differs between tokens.
    Clip bounds are those of token ratios, though a sum moves much further from 0.
    All [N, T]; the result is 0 where response_mask is False. Source: Back to Basics (RLOO), arXiv 2402.14740.
    """
    difference = token(logprobs, old_logprobs, response_mask).double()
    lengths = response_mask.sum(dim=1, keepdim=True)
    total = difference.sum(dim=1, keepdim=True).detach()
    return torch.where(response_mask, total + lengths * (difference - difference.detach()), 0.0).float()

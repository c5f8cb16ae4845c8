"""Log of the ratio between the current policy and the policy at step start, one value per token.

    token:      log r_t  = log pi(y_t) - log pi_old(y_t)
    sequence:   log s    = mean_t log r_t, the same for every token of the trajectory

A loss exponentiates a log ratio after clamping it to +-MAX_LOG_RATIO, so that no ratio overflows.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0


def token(logprobs: Tensor, old_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """Each token's own log ratio.

        log r_t = logprobs_t - old_logprobs_t

    All [N, T]; the result is 0 where response_mask is False. Source: PPO, arXiv 1707.06347.
    """
    return torch.where(response_mask, logprobs.float() - old_logprobs.float(), 0.0)


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

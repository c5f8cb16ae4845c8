"""Diagnostics of a step; none carries gradient into a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.regularizers import kl_k3
from llmrl.ops.shared.whitening import MIN_STD


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` where `mask` is True; values elsewhere, nan included, have no influence.

        sum(values * mask) / sum(mask)

    values, mask (bool): the same shape. Returns an fp32 scalar; 0 if the mask is empty.
    """
    return torch.where(mask, values.float(), 0.0).sum() / mask.sum().clamp(min=1)


def mismatch(old_logprobs: Tensor, rollout_logprobs: Tensor, response_mask: Tensor) -> dict[str, Tensor]:
    """How far the trainer's log-probabilities are from the sampler's, for the same weights and tokens.

        d_t = old_logprobs_t - rollout_logprobs_t
        mismatch_mean = mean |d|      mismatch_max = max |d|      mismatch_k3 = mean(exp(d) - 1 - d)

    All [N, T]; fp32 scalars in nats over the response tokens. mismatch_k3 estimates KL(rollout || trainer), as
    the tokens are the sampler's. The exponent is held under 20; mean and max are raw.
    Source: Schulman, Approximating KL divergence, 2020.
    """
    distance = (old_logprobs.float() - rollout_logprobs.float()).abs()
    return {
        "mismatch_mean": masked_mean(distance, response_mask),
        "mismatch_max": torch.where(response_mask, distance, 0.0).amax(),
        "mismatch_k3": masked_mean(kl_k3(rollout_logprobs, old_logprobs), response_mask),
    }


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """The share of the targets' variance that a critic predicts: 1 perfect, 0 no better than a constant, or worse.

        1 - Var(returns - values) / Var(returns)

    values, returns, mask (bool): the same shape; over the mask, without tokens whose return is nan, which have no
    target. Returns an fp32 scalar, below 0 for predictions worse than the targets' mean; 0 for targets with a std
    under 1e-6, which have no variance to explain, and for fewer than two.
    """
    known = mask & ~returns.isnan()
    variance = _variance(returns, known)
    share = 1 - _variance(returns - values, known) / variance
    return torch.where(variance < MIN_STD**2, 0.0, share).float()


def _variance(values: Tensor, mask: Tensor) -> Tensor:
    values = torch.where(mask, values, 0.0).double()
    count = mask.sum().clamp(min=1)
    return torch.where(mask, values - values.sum() / count, 0.0).square().sum() / count

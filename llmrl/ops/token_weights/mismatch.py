"""Weights against the mismatch between the trainer's policy and the one that sampled.

    w_t = exp(old_logprobs_t - rollout_logprobs_t)        w_i = prod_t w_t, over the response tokens of i

Where trainer and sampler agree every weight of this module is exactly 1. The log ratio `behaviour` contains w already:
a policy loss that reads it must use none of these.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.marks import rejects_only
from llmrl.ops.shared.groups import spread
from llmrl.ops.shared.ranges import require_positive
from llmrl.ops.shared.ratio import as_ratio
from llmrl.ops.shared.rows import row_means


def truncated_is(old_logprobs: Tensor, rollout_logprobs: Tensor, response_mask: Tensor, *, cap: float = 2.0) -> Tensor:
    """Each token's importance weight, truncated from above (TIS).

        weight_t = min(w_t, cap)

    All [N, T]. Raises ValueError if cap is not positive. Source: verl's rollout correction; truncation, Ionides 2008.
    """
    require_positive(cap=cap)
    ratio = as_ratio(_log_mismatch(old_logprobs, rollout_logprobs, response_mask))
    return response_mask * ratio.clamp(max=cap)


def sequence_is(old_logprobs: Tensor, rollout_logprobs: Tensor, response_mask: Tensor, *, cap: float = 3.0) -> Tensor:
    """The trajectory's importance weight, truncated from above, on all its tokens.

        weight_t = min(w_i, cap)

    All [N, T]. Its variance grows with the length of the trajectory. Raises ValueError if cap is not positive.
    Source: TRL's sequence-level truncation; verl's rollout correction.
    """
    require_positive(cap=cap)
    ratio = _sequence_ratio(old_logprobs, rollout_logprobs, response_mask)
    return spread(ratio.clamp(max=cap), response_mask)


@rejects_only
def masked_is(
    old_logprobs: Tensor, rollout_logprobs: Tensor, response_mask: Tensor, *, low: float = 0.5, high: float = 2.0
) -> Tensor:
    """Keeps a trajectory if its importance weight lies in bounds, else drops all its tokens (MIS).

        weight_t = 1 if low <= w_i <= high else 0

    All [N, T]. Multiplied by sequence_is, it also weighs the kept trajectories. Raises ValueError unless
    0 <= low < high. Source: verl's rollout correction (sequence-level rejection).
    """
    _require_bounds(low, high)
    ratio = _sequence_ratio(old_logprobs, rollout_logprobs, response_mask)
    return spread(_inside(ratio, low, high), response_mask)


def icepop(
    old_logprobs: Tensor, rollout_logprobs: Tensor, response_mask: Tensor, *, low: float = 0.5, high: float = 5.0
) -> Tensor:
    """Each token's importance weight where it lies in bounds; a token outside is dropped.

        weight_t = w_t if low <= w_t <= high else 0

    All [N, T]. low 0 with high 5 is the behaviour weight of decoupled PPO. Raises ValueError unless
    0 <= low < high. Source: IcePop, Ring-1T, arXiv 2510.18855; decoupled PPO, arXiv 2110.00641 and 2505.24298.
    """
    _require_bounds(low, high)
    ratio = as_ratio(_log_mismatch(old_logprobs, rollout_logprobs, response_mask))
    return response_mask * ratio * _inside(ratio, low, high)


@rejects_only
def drop_stale_negatives(
    advantages: Tensor, old_logprobs: Tensor, rollout_logprobs: Tensor, response_mask: Tensor, *, limit: float = 0.5
) -> Tensor:
    """Drops tokens of negative advantage in trajectories that have become unlikely since they were sampled.

        stale_i  = mean_t (rollout_logprobs_t - old_logprobs_t) > limit
        weight_t = 0 if stale_i and A_t < 0 else 1

    All [N, T]; limit in nats per token. Lowering mistakes that the policy no longer makes destabilises off-policy
    training. Raises ValueError if limit is not positive. Source: DeepSeek-V3.2, arXiv 2512.02556.
    """
    require_positive(limit=limit)
    stale = -row_means(_log_mismatch(old_logprobs, rollout_logprobs, response_mask), response_mask) > limit
    return (response_mask & ~(stale[:, None] & (advantages < 0))).float()


def _log_mismatch(old_logprobs: Tensor, rollout_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    return torch.where(response_mask, old_logprobs.float() - rollout_logprobs.float(), 0.0)


def _sequence_ratio(old_logprobs: Tensor, rollout_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    return as_ratio(_log_mismatch(old_logprobs, rollout_logprobs, response_mask).double().sum(dim=1))


def _inside(ratio: Tensor, low: float, high: float) -> Tensor:
    return ((ratio >= low) & (ratio <= high)).float()


def _require_bounds(low: float, high: float) -> None:
    if not 0 <= low < high:
        raise ValueError(f"low, high: {low}, {high} are not valid, expected 0 <= low < high")

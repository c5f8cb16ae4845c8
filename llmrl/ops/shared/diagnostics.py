"""Diagnostics of a step; none carries gradient into a loss."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.regularizers import kl_k3
from llmrl.ops.shared.turns import shared_turns, taken_turns, turn_groups, turn_names
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


def repeated_states(
    response_mask: Tensor, turn_ids: Tensor, state_ids: Tensor, action_ids: Tensor, group_ids: Tensor
) -> dict[str, float]:
    """How often trajectories of a group meet: without it, credit by states is credit by outcomes.

        state_group_size   turns in one state of a group, on average over the states
        turns_shared       share of the turns that another trajectory of the group took in the same state, with the same
                           action and the same next state

    response_mask, turn_ids, state_ids, action_ids: [N, T]; group_ids: [N]. Nothing where no state is known.
    """
    taken = taken_turns(response_mask, turn_ids)
    names = turn_names(state_ids, response_mask, turn_ids)
    if not (names[taken] >= 0).any():
        return {}
    rows, state_of = turn_groups(taken, group_ids, names)
    _, edge_of = shared_turns(response_mask, turn_ids, state_ids, action_ids, group_ids)
    visits = torch.stack([edge_of, rows], dim=1).unique(dim=0)
    met = visits[:, 0].bincount(minlength=len(edge_of)) > 1
    return {
        "state_group_size": len(state_of) / (int(state_of.max()) + 1),
        "turns_shared": float(met[edge_of].double().mean()),
    }

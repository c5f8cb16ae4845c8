"""Sums and means over the trajectories of a group, in fp64, so that equal outcomes differ by exactly 0.

A trajectory without response tokens belongs to no group: it changes nobody's statistics.
"""

from __future__ import annotations

import torch
from torch import Tensor


def trajectory_rewards(rewards: Tensor, response_mask: Tensor) -> Tensor:
    """Each trajectory's rewards on response tokens, summed: [N] fp64."""
    return torch.where(response_mask, rewards, 0.0).double().sum(dim=1)


def present(response_mask: Tensor) -> Tensor:
    """1 for a trajectory that has response tokens, else 0: [N] fp64."""
    return response_mask.any(dim=1).double()


def members(response_mask: Tensor, group_ids: Tensor) -> list[Tensor]:
    """The rows of each group's trajectories that have response tokens: [n] int64 for each group."""
    rows = response_mask.any(dim=1).nonzero().flatten()
    _, group_of = group_ids[rows].unique(return_inverse=True)
    return list(rows[group_of.argsort(stable=True)].split(group_of.bincount().tolist()))


def group_sums(values: Tensor, group_ids: Tensor) -> Tensor:
    """The sum of `values` [N] over each trajectory's group, at every one of its members: [N]."""
    ids, group_of = group_ids.unique(return_inverse=True)
    return values.new_zeros(len(ids)).index_add_(0, group_of, values)[group_of]


def group_means(values: Tensor, response_mask: Tensor, group_ids: Tensor) -> Tensor:
    """The mean of `values` [N] over the present members of each trajectory's group: [N] fp64."""
    there = present(response_mask)
    return group_sums(values.double() * there, group_ids) / group_sums(there, group_ids).clamp(min=1)


def group_centred(values: Tensor, response_mask: Tensor, group_ids: Tensor) -> Tensor:
    """`values` [N] less their group's mean, 0 for a trajectory that is in no group: [N] fp64."""
    values = torch.where(response_mask.any(dim=1), values.double(), 0.0)
    return (values - group_means(values, response_mask, group_ids)) * present(response_mask)


def group_std(values: Tensor, response_mask: Tensor, group_ids: Tensor) -> Tensor:
    """The unbiased std of `values` [N] over each trajectory's group, 0 for a group of one: [N] fp64."""
    squares = group_sums(group_centred(values, response_mask, group_ids).square(), group_ids)
    sizes = group_sums(present(response_mask), group_ids)
    return (squares / (sizes - 1).clamp(min=1)).sqrt()


def group_log_softmax(values: Tensor, group_ids: Tensor, there: Tensor) -> Tensor:
    """The log-softmax of `values` [N] over the members of each group that are `there` [N]; finite elsewhere: [N]."""
    ids, group_of = group_ids.unique(return_inverse=True)
    held = values.masked_fill(~there, -torch.inf).detach()
    top = held.new_full((len(ids),), -torch.inf).scatter_reduce(0, group_of, held, "amax")
    shifted = (values - top.nan_to_num(neginf=0.0)[group_of]).masked_fill(~there, 0.0)
    total = group_sums(shifted.exp() * there, group_ids)
    return shifted - torch.where(there, total, 1.0).log()


def spread(per_trajectory: Tensor, response_mask: Tensor) -> Tensor:
    """One number per trajectory [N] on all its response tokens, 0 elsewhere: [N, T] fp32."""
    return torch.where(response_mask, per_trajectory.float().unsqueeze(1), 0.0)

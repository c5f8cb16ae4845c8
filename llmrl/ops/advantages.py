"""Credit per token, computed without gradient on the whole batch of an optimizer step, before it is cut.

    response_mask   0  0  1  1  1  0  0  1  1  .
    rewards         0  0  0  0  r  0  0  0  R  .     outcome = r + R
    grpo, rloo      0  0  a  a  a  0  0  a  a  .     one number per trajectory on all its response tokens
    reinforce       0  0  g  g  g  0  0  h  h  .     g = r + R, h = R at gamma 1, less the baseline

Rewards count where response_mask is True. A trajectory without response tokens belongs to no group: it changes
nobody's baseline. Statistics are taken in fp64, so that equal outcomes give credit of exactly 0; credit is fp32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from llmrl.types import Credit

MIN_STD = 1e-6


def grpo(
    rewards: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    normalize_std: bool = True,
    std_floor: float = 1e-6,
) -> Credit:
    """Outcome against the group's mean, in units of the group's standard deviation.

        A_i = (R_i - mean_g R) / (std_g R + std_floor)       std unbiased (n - 1)
        A_i =  R_i - mean_g R                                normalize_std = False (Dr.GRPO)

    rewards, response_mask: [N, T]; group_ids: [N]. Advantages [N, T], 0 off the mask. A group of one has
    nothing to be compared with: its mean is its own outcome, so its credit is 0.
    Raises ValueError if std_floor is not positive, since a group of equal outcomes has std 0.
    Source: DeepSeekMath, arXiv 2402.03300; Dr.GRPO, arXiv 2503.20783.
    """
    if std_floor <= 0:
        raise ValueError(f"std_floor: {std_floor} is not valid, expected a number above 0")
    centred, sizes = _centred_outcomes(rewards, response_mask, group_ids)
    if normalize_std:
        variance = _group_sums(centred.square(), group_ids) / (sizes - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + std_floor)
    return _broadcast(centred, response_mask)


def rloo(rewards: Tensor, response_mask: Tensor, group_ids: Tensor) -> Credit:
    """Outcome against the mean outcome of the other members of its group: an unbiased baseline.

        A_i = R_i - mean_{j != i} R_j = n / (n - 1) * (R_i - mean_g R)

    rewards, response_mask: [N, T]; group_ids: [N]. Advantages [N, T], 0 off the mask. A group of one has no
    other members; as dropped trajectories can leave one in a running job, its credit is 0, not an error.
    Source: Back to Basics, arXiv 2402.14740.
    """
    centred, sizes = _centred_outcomes(rewards, response_mask, group_ids)
    return _broadcast(centred * sizes / (sizes - 1).clamp(min=1), response_mask)


def reinforce(
    rewards: Tensor,
    response_mask: Tensor,
    *,
    gamma: float = 1.0,
    baseline: Literal["none", "batch_mean"] = "batch_mean",
    normalize_std: bool = False,
) -> Credit:
    """Reward-to-go of each token, less a baseline; no groups are needed.

        G_t = r_t + gamma G_next(t)        next(t): the following response token, over any masked ones
        A_t = (G_t - b) / std              b = mean of G (batch_mean) or 0 (none); std 1 unless normalize_std

    Mean and unbiased std are over the response tokens of the whole batch, so long trajectories weigh more in
    both. A std under 1e-6 is no spread to scale by and is taken as 1. REINFORCE++ is batch_mean with
    normalize_std. rewards, response_mask: [N, T]. Advantages [N, T], 0 off the mask.
    Source: Williams 1992; REINFORCE++, arXiv 2501.03262.
    """
    rewards = torch.where(response_mask, rewards, 0.0).double()
    decay = torch.ones_like(rewards).masked_fill(response_mask, gamma)
    returns = _reward_to_go(rewards, decay)
    count = response_mask.sum()
    mean = torch.where(response_mask, returns, 0.0).sum() / count.clamp(min=1)
    deviations = torch.where(response_mask, returns - mean, 0.0)
    advantages = deviations if baseline == "batch_mean" else torch.where(response_mask, returns, 0.0)
    if normalize_std:
        std = (deviations.square().sum() / (count - 1).clamp(min=1)).sqrt()
        advantages = advantages / torch.where(std < MIN_STD, 1.0, std)
    return Credit(advantages.float())


def _reward_to_go(rewards: Tensor, decay: Tensor) -> Tensor:
    """Solves G_t = rewards_t + decay_t G_{t+1} along dim 1 in log2(T) doublings of the window summed so far."""
    returns, decay = rewards.clone(), decay.clone()
    width, window = rewards.shape[1], 1
    while window < width:
        ahead, ahead_decay = returns[:, window:].clone(), decay[:, window:].clone()
        returns[:, :-window] += decay[:, :-window] * ahead
        decay[:, :-window] *= ahead_decay
        window *= 2
    return returns


def _centred_outcomes(rewards: Tensor, response_mask: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Each trajectory's outcome less its group's mean, and its group's size: both [N] fp64."""
    present = response_mask.any(dim=1).double()
    outcomes = torch.where(response_mask, rewards, 0.0).double().sum(dim=1)
    sizes = _group_sums(present, group_ids)
    means = _group_sums(outcomes, group_ids) / sizes.clamp(min=1)
    return (outcomes - means) * present, sizes


def _group_sums(values: Tensor, group_ids: Tensor) -> Tensor:
    """The sum of `values` [N] over each trajectory's group, at every one of its members: [N]."""
    ids, group_of = group_ids.unique(return_inverse=True)
    return values.new_zeros(len(ids)).index_add_(0, group_of, values)[group_of]


def _broadcast(per_trajectory: Tensor, response_mask: Tensor) -> Credit:
    return Credit(torch.where(response_mask, per_trajectory.float().unsqueeze(1), 0.0))

"""Backward recursions along the tokens of a trajectory."""

from __future__ import annotations

import torch
from torch import Tensor


def reward_to_go(rewards: Tensor, decay: Tensor) -> Tensor:
    """Solves G_t = rewards_t + decay_t G_{t+1} along dim 1 in log2(T) doublings of the window summed so far."""
    returns, decay = rewards.clone(), decay.clone()
    width, window = rewards.shape[1], 1
    while window < width:
        ahead, ahead_decay = returns[:, window:].clone(), decay[:, window:].clone()
        returns[:, :-window] += decay[:, :-window] * ahead
        decay[:, :-window] *= ahead_decay
        window *= 2
    return returns


def next_on_mask(values: Tensor, mask: Tensor) -> Tensor:
    """`values` at the first column after t where `mask` is True, 0 where none follows: [N, T]."""
    carried = reward_to_go(torch.where(mask, values, 0.0), (~mask).to(values.dtype))
    return torch.nn.functional.pad(carried[:, 1:], (0, 1))


def lambda_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float = 1.0, lam: float | Tensor = 1.0
) -> Tensor:
    """Generalized advantages over the columns where `mask` is True, which alone are steps of the trajectory.

        delta_t = r_t + gamma V_next(t) - V_t        next(t): the following step; V = 0 past the last
        A_t     = delta_t + gamma lam A_next(t)

    rewards, values, mask: [N, T]; lam may differ by row, [N, 1]. Returns [N, T] fp64, 0 off the mask.
    Source: arXiv 1506.02438.
    """
    rewards, values = (torch.where(mask, x, 0.0).double() for x in (rewards, values))
    deltas = torch.where(mask, rewards + gamma * next_on_mask(values, mask) - values, 0.0)
    advantages = reward_to_go(deltas, torch.where(mask, gamma * lam * torch.ones_like(values), 1.0))
    return torch.where(mask, advantages, 0.0)

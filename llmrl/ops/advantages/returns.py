"""Reward-to-go of each token or turn, without groups and without a critic."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import require_fraction
from llmrl.ops.shared.recursion import reward_to_go
from llmrl.ops.shared.turns import on_tokens, taken_turns, turn_returns
from llmrl.ops.shared.whitening import MIN_STD, whiten
from llmrl.types import Credit


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

    Mean and unbiased std are over the response tokens of the whole batch, so long trajectories weigh more in both. A
    std under 1e-6 is taken as 1. REINFORCE++ is batch_mean with normalize_std. rewards, response_mask: [N, T]. Raises
    ValueError if gamma is outside [0, 1]. Source: Williams 1992; REINFORCE++, arXiv 2501.03262.
    """
    require_fraction(gamma=gamma)
    rewards = torch.where(response_mask, rewards, 0.0).double()
    decay = torch.ones_like(rewards).masked_fill(response_mask, gamma)
    returns = reward_to_go(rewards, decay)
    count = response_mask.sum()
    mean = torch.where(response_mask, returns, 0.0).sum() / count.clamp(min=1)
    deviations = torch.where(response_mask, returns - mean, 0.0)
    advantages = deviations if baseline == "batch_mean" else torch.where(response_mask, returns, 0.0)
    if normalize_std:
        std = (deviations.square().sum() / (count - 1).clamp(min=1)).sqrt()
        advantages = advantages / torch.where(std < MIN_STD, 1.0, std)
    return Credit(advantages.float())


def rebn(rewards: Tensor, response_mask: Tensor, turn_ids: Tensor, *, gamma: float = 1.0) -> Credit:
    """Reward-to-go of each turn, whitened over all turns of the batch: return batch normalization.

        G_k = r_k + gamma G_next(k)        r_k: the rewards of turn k, summed
        A_k = (G_k - mean G) / std G       on all tokens of turn k

    Mean and unbiased std are over turns, so long turns weigh no more than short ones; a std under 1e-6 is taken
    as 1. gamma counts turns: below 1 it rewards few turns; -1 is for the two sides of a zero-sum game that one author
    plays by turns, where what a turn gains is lost to the turn before. With one turn each this is a batch-normalized
    outcome.
    rewards, response_mask, turn_ids: [N, T], turn_ids rising along a trajectory.
    Raises ValueError if gamma is outside [-1, 1]. Source: GEM, arXiv 2510.01051.
    """
    if not -1 <= gamma <= 1:
        raise ValueError(f"gamma: {gamma} is not valid, expected a number from -1 to 1")
    returns = turn_returns(rewards, response_mask, turn_ids, gamma=gamma)
    return Credit(on_tokens(whiten(returns, taken_turns(response_mask, turn_ids)), response_mask, turn_ids))

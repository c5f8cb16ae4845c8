"""Losses that move each completion's log ratio by itself, up or down, instead of their difference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from llmrl.marks import compares_prompts
from llmrl.ops.shared.ranges import refuse_negative, require_positive


def apo_zero(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """Anchored preference optimisation, for chosen completions that are better than the policy's: u_w up, u_l down.

        loss = (1 - sigmoid(beta u_w)) + sigmoid(beta u_l)

    All [M]. Raises ValueError for beta <= 0. Source: arXiv 2408.06266.
    """
    require_positive(beta=beta)
    return torch.sigmoid(-beta * chosen_log_ratios) + torch.sigmoid(beta * rejected_log_ratios)


def apo_down(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """Anchored preference optimisation, for chosen completions that are worse than the policy's: both down, u_l more.

        loss = sigmoid(beta u_w) + (1 - sigmoid(beta D))

    All [M]. Raises ValueError for beta <= 0. Source: arXiv 2408.06266.
    """
    require_positive(beta=beta)
    margins = beta * (chosen_log_ratios - rejected_log_ratios)
    return torch.sigmoid(beta * chosen_log_ratios) + torch.sigmoid(-margins)


def bco_pair(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """Binary classification of both completions of a pair.

        loss = -log sigmoid(beta u_w) - log sigmoid(-beta u_l)

    All [M]. `bco` subtracts the mean reward, and needs no pairs. Raises ValueError for beta <= 0.
    Source: arXiv 2404.04656, without its reward shift.
    """
    require_positive(beta=beta)
    return -logsigmoid(beta * chosen_log_ratios) - logsigmoid(-beta * rejected_log_ratios)


def bco(
    completion_log_ratios: Tensor,
    completion_rewards: Tensor,
    mean_log_ratio: Tensor,
    *,
    beta: float = 0.1,
    threshold: float = 0.5,
) -> Tensor:
    """Binary classification of single completions as desirable (reward > threshold) or undesirable.

        loss = -log sigmoid(+-(beta u - delta))        delta = beta mean_log_ratio; + if desirable

    completion_log_ratios, completion_rewards: [N]; mean_log_ratio: a single number, the controller's mean over the
    steps before this one. Completions without a reward have loss 0. Raises ValueError for beta <= 0.
    Source: arXiv 2404.04656.
    """
    require_positive(beta=beta)
    signs = _signs(completion_rewards, threshold)
    return -logsigmoid(signs * beta * (completion_log_ratios - mean_log_ratio)) * signs.abs()


@compares_prompts
def kto(
    completion_log_ratios: Tensor,
    completion_rewards: Tensor,
    mismatched_kl: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    threshold: float = 0.5,
) -> Tensor:
    """Kahneman-Tversky optimisation of single completions, desirable (reward > threshold) or undesirable.

        loss = desirable_weight   (1 - sigmoid(beta (u - z)))        if desirable
               undesirable_weight (1 - sigmoid(beta (z - u)))        else

    completion_log_ratios, completion_rewards: [N]; mismatched_kl: z, a single number without gradient. Completions
    without a reward have loss 0. The paper wants desirable_weight desirable / (undesirable_weight undesirable) between
    1 and 4/3. Raises ValueError for beta <= 0 or a weight < 0. Source: arXiv 2402.01306.
    """
    require_positive(beta=beta)
    refuse_negative(desirable_weight=desirable_weight, undesirable_weight=undesirable_weight)
    signs = _signs(completion_rewards, threshold)
    weights = torch.where(signs > 0, desirable_weight, undesirable_weight) * signs.abs()
    return weights * torch.sigmoid(-signs * beta * (completion_log_ratios - mismatched_kl))


def _signs(rewards: Tensor, threshold: float) -> Tensor:
    """1 for rewards over the threshold, -1 for others, 0 for nan: [N]."""
    return torch.where(rewards > threshold, 1.0, -1.0) * rewards.isfinite()

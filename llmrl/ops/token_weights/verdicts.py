"""Weights from the outcomes of trajectories and groups."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmrl.ops.shared.groups import group_sums
from llmrl.ops.shared.ranges import require_positive


def difficulty(
    advantages: Tensor, correct: Tensor, group_ids: Tensor, response_mask: Tensor, *, sharpness: float = math.e
) -> Tensor:
    """Lowers the weight of good answers to hard prompts; meant for a KL penalty.

        p        = share of the group that is correct
        weight_t = 1 - exp(-sharpness p)  where A_t > 0 and 0 < p < 1, else 1

    advantages, response_mask: [N, T]; correct, group_ids: [N]; trajectories without a verdict (nan) or without
    response tokens don't count in p. Raises ValueError if sharpness is not positive.
    Source: difficulty-adaptive divergence shaping, APO, arXiv 2506.21655.
    """
    require_positive(sharpness=sharpness)
    known = (response_mask.any(dim=1) & ~correct.isnan()).double()
    solved = group_sums(torch.where(known > 0, correct.double(), 0.0), group_ids)
    share = solved / group_sums(known, group_ids).clamp(min=1)
    loosened = torch.where((share > 0) & (share < 1), -torch.expm1(-sharpness * share), 1.0)
    weights = torch.where(advantages > 0, loosened[:, None], 1.0)
    return torch.where(response_mask, weights, 0.0).float()


def correct_tokens(correct: Tensor, response_mask: Tensor) -> Tensor:
    """Turns a mean over all response tokens into the mean over those of correct trajectories.

        weight_t = M / M_correct on correct trajectories, else 0

    correct: [N], nan counts as not correct; response_mask: [N, T]; M, M_correct: response tokens of the batch, and of
    its correct trajectories. Meant for the reduction token_mean; without correct tokens all weights are 0.
    Source: positive-example loss, VAPO, arXiv 2504.05118.
    """
    chosen = response_mask & (correct == 1)[:, None]
    return chosen.float() * (response_mask.sum() / chosen.sum().clamp(min=1))


def positive_advantage(advantages: Tensor, response_mask: Tensor) -> Tensor:
    """Turns a mean over all response tokens into the mean over those with credit: A_t > 0.

        weight_t = M / M_positive where A_t > 0, else 0

    Both [N, T]; M, M_positive: response tokens of the batch, and those with A_t > 0. Meant for the reduction
    token_mean; without such tokens all weights are 0. Source: imitation of good trajectories, THOR, arXiv 2509.13761.
    """
    chosen = response_mask & (advantages > 0)
    return chosen.float() * (response_mask.sum() / chosen.sum().clamp(min=1))

"""Weights from the outcomes of trajectories and groups."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmrl.ops.shared.comparisons import outcomes, pairs_of
from llmrl.ops.shared.groups import group_sums, members
from llmrl.ops.shared.ranges import require_positive
from llmrl.ops.shared.rows import row_means


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


def chosen_tokens(rewards: Tensor, group_ids: Tensor, response_mask: Tensor) -> Tensor:
    """Turns a mean over all response tokens into the mean over those of chosen completions.

        weight_t = M / M_chosen on completions that are better than another one of their group, else 0

    rewards, response_mask: [N, T]; group_ids: [N]; M, M_chosen: response tokens of the batch, and of its chosen
    completions. Meant for the reduction token_mean, beside a preference loss; without pairs all weights are 0.
    Source: the likelihood of CPO, arXiv 2401.08417.
    """
    chosen = response_mask & _is_chosen(rewards, group_ids, response_mask)[:, None]
    return chosen.float() * (response_mask.sum() / chosen.sum().clamp(min=1))


def chosen_completions(rewards: Tensor, group_ids: Tensor, response_mask: Tensor) -> Tensor:
    """Turns a mean over all completions into the mean over the chosen ones.

        weight_t = N / N_chosen on completions that are better than another one of their group, else 0

    rewards, response_mask: [N, T]; group_ids: [N]; N, N_chosen: completions with response tokens, and the chosen ones
    among them. Meant for sequence_mean, the mean of -log pi(y_w) / |y_w|, or fixed_length with length 1, the mean of
    -log pi(y_w), beside a preference loss; without pairs all weights are 0.
    Source: the likelihood of iterative RPO, arXiv 2404.19733.
    """
    chosen = _is_chosen(rewards, group_ids, response_mask)
    share = response_mask.any(dim=1).sum() / chosen.sum().clamp(min=1)
    return (response_mask & chosen[:, None]).float() * share


def _is_chosen(rewards: Tensor, group_ids: Tensor, response_mask: Tensor) -> Tensor:
    """Which completions are the chosen one of a pair: [N] bool."""
    rows, _ = pairs_of(outcomes(rewards, response_mask), group_ids)
    return torch.zeros_like(group_ids, dtype=torch.bool).index_fill(0, rows, True)


def positive_advantage(advantages: Tensor, response_mask: Tensor) -> Tensor:
    """Turns a mean over all response tokens into the mean over those with credit: A_t > 0.

        weight_t = M / M_positive where A_t > 0, else 0

    Both [N, T]; M, M_positive: response tokens of the batch, and those with A_t > 0. Meant for the reduction
    token_mean; without such tokens all weights are 0. Source: imitation of good trajectories, THOR, arXiv 2509.13761.
    """
    chosen = response_mask & (advantages > 0)
    return chosen.float() * (response_mask.sum() / chosen.sum().clamp(min=1))


def best_of_group(advantages: Tensor, group_ids: Tensor, response_mask: Tensor, *, threshold: float = 0.0) -> Tensor:
    """Turns a mean over all completions into the mean over groups of the best one's loss, where it is good enough.

        weight_t = N / G on the first completion of its group with the largest A_i, if A_i > threshold, else 0
        A_i      = mean_t A_t

    advantages, response_mask: [N, T]; group_ids: [N]; N: completions with response tokens; G: their groups, those
    without a good one too. Meant for sequence_mean, or fixed_length with length 1, the mean over groups of
    -log pi(y_best). Source: Digi-Q, arXiv 2502.15760.
    """
    credit, groups = row_means(advantages, response_mask), members(response_mask, group_ids)
    weights = torch.zeros_like(credit)
    share = sum(map(len, groups)) / max(len(groups), 1)
    for rows in groups:
        best = rows[credit[rows].argmax()]
        weights[best] = share * (credit[best] > threshold)
    return (response_mask * weights[:, None]).float()

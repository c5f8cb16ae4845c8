"""One change for all tokens of a trajectory, from how it compares with its group."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmrl.ops.shared.groups import group_means, group_sums, present
from llmrl.ops.shared.ranges import refuse_negative
from llmrl.ops.shared.rows import row_means


def novelty(
    advantages: Tensor,
    old_logprobs: Tensor,
    correct: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    weight: float = 2.5,
    cap: float = 0.5,
) -> Tensor:
    """A correct response less likely than its group's average gains advantage.

        A'_t = A_t + min(max(weight (1 - eta_i), 0), cap max(A_t, 0))        where i is correct
        eta_i = exp(s_i - mean_g s)        s_i = mean_t old_logprobs

    The bonus is at most a share `cap` of the advantage, and nothing where that is negative. advantages,
    old_logprobs, response_mask: [N, T]; correct, group_ids: [N]. Raises ValueError for a weight or cap below 0.
    Source: XRPO, arXiv 2510.06672.
    """
    refuse_negative(weight=weight, cap=cap)
    clean = torch.where(response_mask, advantages, 0.0).double()
    likelihood = row_means(old_logprobs, response_mask)
    eta = (likelihood - group_means(likelihood, response_mask, group_ids)).exp()
    bonus = (weight * (1 - eta)).clamp(min=0) * (correct == 1)
    return (clean + torch.minimum(bonus.unsqueeze(1), cap * clean.clamp(min=0))).float()


def length_control(
    advantages: Tensor, correct: Tensor, response_mask: Tensor, group_ids: Tensor, *, base: float = 1.00001
) -> Tensor:
    """A negative advantage grows, at most twofold, with the response's excess length over the group's correct ones.

        A'_t = A_t (2 - base^-(L_i - L_g))        where A_t < 0 and L_i > L_g

    L_i = response tokens of i, L_g = their mean over the group's correct members; a group without one is
    unchanged. advantages, response_mask: [N, T]; correct, group_ids: [N]. Raises ValueError for a base under 1.
    Source: APO, arXiv 2506.21655.
    """
    if base < 1:
        raise ValueError(f"base: {base} is not valid, expected a number of at least 1")
    lengths = response_mask.sum(dim=1).double()
    right = (correct == 1) * present(response_mask)
    right_count = group_sums(right, group_ids)
    allowed = group_sums(lengths * right, group_ids) / right_count.clamp(min=1)
    excess = torch.where(right_count > 0, lengths - allowed, 0.0).clamp(min=0)
    factor = 2 - torch.exp(-excess * math.log(base))
    clean = torch.where(response_mask, advantages, 0.0).double()
    return torch.where(clean < 0, clean * factor.unsqueeze(1), clean).float()

"""Credit for the steps of a chain of thought, added to the credit for its outcome."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.groups import group_sums
from llmrl.ops.shared.ranges import refuse_negative, require_fraction

STD_FLOOR = 1e-6
MIN_BASELINE = 1e-6


def rectify(
    advantages: Tensor,
    answer_logprobs: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    weight: float = 0.1,
    stability: float = 0.1,
) -> Tensor:
    """Adds the normalised progress towards the gold answer that token t's segment and the later ones make.

        A'_t = A_t + weight sum_{segments j ending at or after t} (r_j - mean_g r) / (std_g r + 1e-6)
        r_j  = S_j - S_{j-1}                                    S_0 = 0
        S_j  = (1 - stability) (1 - tanh(J_j / J_b)) + stability (1 + tau(J_1..J_j)) / 2

    J_j = answer_logprobs where segment j ends; J_b = the same without any reasoning, in the column before the
    first response token. J_j / J_b falls from 1 towards 0 as the answer becomes certain, so its score rises from
    0.24 to 1. tau is Kendall's against the order of the segments, 0 for a single one. Mean and unbiased std are
    over all steps of the group, so the steps do not mix with the outcome's scale. Tokens after the last segment
    end, and trajectories whose J_b is nan, are unchanged. advantages, answer_logprobs, response_mask: [N, T];
    group_ids: [N]. Raises ValueError for a weight below 0 or a stability outside [0, 1].
    Source: RePro, arXiv 2512.01925; the orientation of the score is chosen so that progress is positive.
    """
    refuse_negative(weight=weight)
    require_fraction(stability=stability)
    steps, ends = _step_rewards(answer_logprobs, response_mask, stability)
    count = group_sums(ends.double().sum(dim=1), group_ids).clamp(min=1)
    means = group_sums(steps.sum(dim=1), group_ids) / count
    deviations = torch.where(ends, steps - means.unsqueeze(1), 0.0)
    variance = group_sums(deviations.square().sum(dim=1), group_ids) / (count - 1).clamp(min=1)
    normalised = deviations / (variance.sqrt() + STD_FLOOR).unsqueeze(1)
    to_go = normalised.flip(1).cumsum(dim=1).flip(1)
    return torch.where(response_mask, advantages + weight * to_go, 0.0).float()


def _step_rewards(answer_logprobs: Tensor, response_mask: Tensor, stability: float) -> tuple[Tensor, Tensor]:
    """Each step's reward at the token that ends it, 0 elsewhere: [N, T] fp64; and where steps end: [N, T] bool."""
    baseline = _baseline(answer_logprobs, response_mask)
    ends = response_mask & answer_logprobs.isfinite() & baseline.isfinite().unsqueeze(1)
    order = ends.int().argsort(dim=1, descending=True, stable=True)[:, : int(ends.sum(dim=1).max())]
    real = ends.gather(1, order)
    likelihood = torch.where(real, answer_logprobs.gather(1, order), 0.0).double()
    magnitude = 1 - torch.tanh(likelihood / baseline.double().clamp(max=-MIN_BASELINE).unsqueeze(1))
    score = (1 - stability) * magnitude + stability * (1 + _kendall_tau(likelihood)) / 2
    reward = score.diff(dim=1, prepend=torch.zeros_like(score[:, :1]))
    steps = torch.zeros_like(answer_logprobs, dtype=torch.double)
    return steps.scatter_(1, order, torch.where(real, reward, 0.0)), ends


def _baseline(answer_logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """answer_logprobs before the first response token, nan where there is none or nothing before it: [N]."""
    first = response_mask.int().argmax(dim=1, keepdim=True)
    before = answer_logprobs.gather(1, (first - 1).clamp(min=0)).squeeze(1)
    return torch.where(response_mask.any(dim=1) & (first.squeeze(1) > 0), before, torch.nan)


def _kendall_tau(values: Tensor) -> Tensor:
    """Kendall's tau of every prefix of each row against its order: (rises - falls) / pairs, [N, K]."""
    rises = (values.unsqueeze(1) - values.unsqueeze(2)).sign().triu(diagonal=1)  # [n, a, b]: sign(v_b - v_a), a < b
    length = torch.arange(1, values.shape[1] + 1, device=values.device)
    return rises.sum(dim=1).cumsum(dim=1) / (length * (length - 1) / 2).clamp(min=1)

"""Losses of value models that tell the outcome of an answer after each of its tokens.

Every prefix of an answer has the answer's outcome as its label, so that a score is the value of what stands there under
the policy that wrote the rest: with answers that a reference finished, what a guide needs (llmrl/ops/guidance.py). The
loss of an answer is the mean over its tokens. Groups whose answers have all the same outcome are left out: they tell
nothing about which tokens matter. Source: Q#, arXiv 2502.20548.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from llmrl.ops.shared.comparisons import outcomes
from llmrl.ops.shared.groups import group_sums
from llmrl.ops.shared.value_bins import bin_values


def prefix_bce(
    scores: Tensor, rewards: Tensor, response_mask: Tensor, group_ids: Tensor, *, drop_uniform: bool = True
) -> Tensor:
    """Binary cross-entropy of sigmoid(score) after each token against the answer's outcome: [N].

    scores: [N, T, 1]; rewards: [N, T], whose sum is the outcome, in [0, 1]. Raises ValueError for several heads, and
    for an outcome that is no probability.
    """
    labels, weights = _labels(scores, rewards, response_mask, group_ids, drop_uniform)
    losses = binary_cross_entropy_with_logits(scores[..., 0], labels, reduction="none")
    return (losses * weights).sum(dim=1)


def prefix_mse(
    scores: Tensor, rewards: Tensor, response_mask: Tensor, group_ids: Tensor, *, drop_uniform: bool = True
) -> Tensor:
    """(sigmoid(score) - outcome)^2 after each token; otherwise as prefix_bce: [N]."""
    labels, weights = _labels(scores, rewards, response_mask, group_ids, drop_uniform)
    return ((scores[..., 0].sigmoid() - labels).square() * weights).sum(dim=1)


def prefix_cross_entropy(
    scores: Tensor,
    rewards: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    low: float = 0.0,
    high: float = 1.0,
    drop_uniform: bool = True,
) -> Tensor:
    """Cross-entropy of the atom next to the answer's outcome, after each token, of K evenly spaced atoms: [N].

        z_1 = low, ..., z_K = high        K the heads of scores [N, T, K]; set model.heads to it

    Outcomes beyond low and high count as these. Raises ValueError for a low that is not below high, and for fewer than
    2 heads.
    """
    atoms = bin_values(scores, low=low, high=high)
    outcome, weights = _outcomes(rewards, response_mask, group_ids, drop_uniform)
    nearest = (outcome.to(atoms.dtype)[:, None] - atoms).abs().argmin(dim=1)
    targets = nearest[:, None].expand(scores.shape[:2])
    losses = cross_entropy(scores.float().movedim(-1, 1), targets, reduction="none")
    return (losses * weights).sum(dim=1)


def _labels(
    scores: Tensor, rewards: Tensor, response_mask: Tensor, group_ids: Tensor, drop_uniform: bool
) -> tuple[Tensor, Tensor]:
    """The outcome on all tokens, and the tokens' weights: [N, T] each."""
    if scores.shape[-1] != 1:
        raise ValueError(f"the model has {scores.shape[-1]} heads, expected 1; set model.heads")
    outcome, weights = _outcomes(rewards, response_mask, group_ids, drop_uniform)
    if ((outcome < 0) | (outcome > 1)).any():
        raise ValueError("an outcome is no probability; give rewards from 0 to 1, or use prefix_cross_entropy")
    return outcome.to(scores.dtype)[:, None].expand(scores.shape[:2]), weights.to(scores.dtype)


def _outcomes(rewards: Tensor, response_mask: Tensor, group_ids: Tensor, drop_uniform: bool) -> tuple[Tensor, Tensor]:
    """Each answer's outcome, 0 without tokens [N], and 1 / length on the tokens of answers that count [N, T]."""
    outcome = outcomes(rewards, response_mask)
    known = outcome.isfinite()
    outcome = torch.where(known, outcome, 0.0)
    if drop_uniform:
        count = group_sums(known.double(), group_ids).clamp(min=1)
        mean = group_sums(outcome, group_ids) / count
        spread = group_sums(torch.where(known, (outcome - mean).square(), 0.0), group_ids)
        known = known & (spread > 1e-12)
    lengths = response_mask.sum(dim=1, keepdim=True).clamp(min=1)
    return outcome, (response_mask & known[:, None]) / lengths

"""Metrics of preferences: how well margins and rewards say which completion is better."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

BINS = 10


def of_pairs(stats: Mapping[str, Tensor], *, scale: float | None) -> dict[str, float]:
    """Metrics of pairs from their statistics [M], which are those of `llmrl.train.preferences.pair_statistics`.

        P(the chosen one is better) = sigmoid(scale * margin)

    Each statistic's mean, but for the lengths, which no model changes; the rank correlation of the margin with the
    difference of lengths, which is left out where one of the two does not vary. Unless scale is None, how far this
    probability can be trusted: its calibration error, its Brier score, and the mean confidence less the accuracy.
    """
    margins = stats["preference_margin"].double()
    found = {name: float(value.double().mean()) for name, value in stats.items() if not name.endswith("_lengths")}
    longer = stats["chosen_lengths"] - stats["rejected_lengths"]
    found |= {"pairs": float(len(margins)), "length_correlation": rank_correlation(margins, longer)}
    if scale is not None:
        logits = scale * margins
        found |= {
            "calibration_error": calibration_error(logits),
            "brier_score": float(torch.sigmoid(-logits).square().mean()),
            "overconfidence": float(torch.sigmoid(logits.abs()).mean()) - found["preference_accuracy"],
        }
    return {name: value for name, value in found.items() if math.isfinite(value)}


def of_labels(rewards: Tensor, good: Tensor) -> dict[str, float]:
    """Metrics of single completions, each labelled good or not: rewards, good [N] to numbers by name.

    label_auroc is left out where all labels are equal.
    """
    found = {"labels": float(len(rewards)), "label_auroc": auroc(rewards, good)}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def calibration_error(logits: Tensor) -> float:
    """The expected calibration error of preferences: [M] logits of the chosen completion's being better.

        sum over bins of  n_bin / M  |share of right preferences - mean confidence|

    The confidence of a preference is sigmoid(|logit|); BINS bins of equal width cover [0.5, 1]. A tie is half right.
    """
    confidence = torch.sigmoid(logits.double().abs())
    right = logits.gt(0).double() + logits.eq(0).double() / 2
    place = ((confidence - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place.cpu(), (right - confidence).cpu())
    return float(gaps.abs().sum() / len(logits))


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's correlation of two series [M]; nan where one of them does not vary."""
    ranks = torch.stack([average_ranks(first), average_ranks(second)])
    centred = ranks - ranks.mean(dim=1, keepdim=True)
    sizes = centred.square().sum(dim=1)
    return float((centred[0] * centred[1]).sum() / (sizes[0] * sizes[1]).sqrt())  # 0 / 0 is nan


def auroc(rewards: Tensor, good: Tensor) -> float:
    """The chance that a good completion's reward is above that of one that is not, a tie counting half: [N] each.

    nan where all labels are equal.
    """
    good = good.bool()
    count, others = int(good.sum()), int((~good).sum())
    if not count or not others:
        return math.nan
    above = float(average_ranks(rewards)[good].sum()) - count * (count + 1) / 2
    return above / (count * others)


def average_ranks(values: Tensor) -> Tensor:
    """The rank of each value, from 1; equal values have the mean of their ranks: [M] fp64."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[place]

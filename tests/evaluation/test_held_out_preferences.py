"""Metrics of preferences, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from llmrl.evaluation.held_out_preferences import (
    auroc,
    average_ranks,
    calibration_error,
    of_labels,
    of_pairs,
    rank_correlation,
)

LENGTHS = {"chosen_lengths": torch.tensor([3.0, 5.0, 4.0, 4.0]), "rejected_lengths": torch.tensor([2.0, 2.0, 4.0, 5.0])}


def stats(margins: list[float]) -> dict[str, torch.Tensor]:
    margin = torch.tensor(margins)
    ties = margin.eq(0).float()
    return {"preference_margin": margin, "preference_ties": ties, "preference_accuracy": margin.gt(0) + ties / 2}


def test_metrics_of_pairs():
    """sigmoid(2) = 0.880797 is right, sigmoid(1) = 0.731059 is wrong, and two ties are half right at 0.5."""
    found = of_pairs(stats([4.0, -2.0, 0.0, 0.0]) | LENGTHS, scale=0.5)
    assert found == pytest.approx(
        {
            "pairs": 4.0,
            "preference_margin": 0.5,
            "preference_ties": 0.5,
            "preference_accuracy": 0.5,
            "calibration_error": (0.119203 + 0.731059) / 4,
            "brier_score": (0.119203**2 + 0.731059**2 + 0.25 + 0.25) / 4,
            "overconfidence": (0.880797 + 0.731059 + 0.5 + 0.5) / 4 - 0.5,
            # ranks 4, 1, 2.5, 2.5 of the margins, and 3, 4, 2, 1 of the differences 1, 3, 0, -1
            "length_correlation": (1.5 * 0.5 - 1.5 * 1.5) / math.sqrt(4.5 * 5),
        },
        abs=1e-6,
    )


def test_a_constant_model_is_right_half_the_time_and_as_sure_as_that():
    found = of_pairs(stats([0.0] * 4) | LENGTHS, scale=1.0)
    assert (found["preference_accuracy"], found["preference_ties"]) == (0.5, 1.0)
    assert (found["calibration_error"], found["brier_score"], found["overconfidence"]) == (0.0, 0.25, 0.0)
    assert "length_correlation" not in found  # a margin that does not vary follows nothing


def test_margins_without_a_probability_are_not_calibrated():
    found = of_pairs(stats([4.0, -2.0, 0.0, 0.0]) | LENGTHS, scale=None)
    assert found.keys() == {"pairs", "length_correlation", *stats([])}


def test_errors_of_one_bin_cancel():
    """Both preferences have a confidence of 0.9: one of two is right, where 1.8 were promised."""
    logit = math.log(9)
    assert calibration_error(torch.tensor([logit, -logit])) == pytest.approx(0.4)
    assert calibration_error(torch.tensor([50.0, 50.0])) == pytest.approx(0.0)  # the last bin holds 1 too
    assert calibration_error(torch.tensor([-50.0])) == pytest.approx(1.0)


def test_rank_correlation():
    first = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(first, torch.tensor([10.0, 30.0, 20.0, 40.0])) == pytest.approx(0.8)  # 1 - 6 * 2 / 60
    assert rank_correlation(first, first.square()) == pytest.approx(1.0)
    assert rank_correlation(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(0.866025)
    assert math.isnan(rank_correlation(first, torch.ones(4)))
    assert average_ranks(torch.tensor([5.0, 1.0, 5.0, 5.0])).tolist() == [3.0, 1.0, 3.0, 3.0]


def test_labels():
    rewards, good = torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([False, True, False, True])
    assert auroc(rewards, good) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert auroc(torch.zeros(4), good) == 0.5
    assert of_labels(rewards, good) == {"labels": 4.0, "label_auroc": pytest.approx(0.875)}
    assert of_labels(rewards, torch.ones(4)) == {"labels": 4.0}

from __future__ import annotations

import math

import pytest
import torch

from llmrl.ops.preference_losses.implicit import outcome_bce


def test_the_outcome_s_logit_is_beta_times_the_sum_of_log_ratios():
    """u = 2, -4, 3, 1 and beta = 1/2: logits 1, -2, 1.5; right, wrong, a chance of 1/4, and no outcome.

    -log sigmoid(1) = log(1 + e^-1) = 0.313262; -log sigmoid(2) = log(1 + e^-2) = 0.126928
    -1/4 log sigmoid(1.5) - 3/4 log sigmoid(-1.5) = 0.201413 / 4 + 3 * 1.701413 / 4 = 1.326413
    """
    ratios = torch.tensor([2.0, -4, 3, 1], dtype=torch.float64, requires_grad=True)
    found = outcome_bce(ratios, torch.tensor([1.0, 0, 0.25, math.nan]), beta=0.5)
    assert found.tolist() == pytest.approx([0.313262, 0.126928, 1.326413, 0], abs=1e-6)
    found.sum().backward()  # beta (sigmoid(beta u) - reward)
    expected = [0.5 * (0.7310586 - 1), 0.5 * 0.1192029, 0.5 * (0.8175745 - 0.25), 0]
    assert ratios.grad is not None and ratios.grad.tolist() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="beta"):
        outcome_bce(ratios, ratios, beta=0.0)

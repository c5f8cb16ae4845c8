"""The task whose best policy is known: its numbers by hand, and a method that reaches the optimum."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from llmrl.prove import tabular
from llmrl.prove.results import Run
from llmrl.prove.tabular import Table, divergence, make


def test_numbers_of_a_policy_by_hand():
    """One prompt, two answers of rewards log 3 and 0, a start that is even: the optimum is 3/4 and 1/4."""
    rewards = torch.tensor([[log(3), 0.0]], dtype=torch.float64)
    start = torch.full((1, 2), 0.5, dtype=torch.float64)
    table = Table(torch.tensor([0]), torch.tensor([1, 2]), rewards, start)
    assert table.best.tolist() == [pytest.approx([0.75, 0.25])]
    found = table.measured(start)
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["reward"] == pytest.approx(log(3) / 2)
    assert found["pass@8"] == pytest.approx(1 - 0.5**8)
    assert found["KL to the optimum"] == pytest.approx(0.75 * log(1.5) + 0.25 * log(0.5))
    assert table.measured(table.best)["KL to the optimum"] == pytest.approx(0.0, abs=1e-12)
    assert divergence(table.best, start) == pytest.approx(0.75 * log(1.5) + 0.25 * log(0.5))


def test_chosen_answers_follow_bradley_and_terry():
    rewards = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    table = Table(torch.tensor([0]), torch.tensor([1, 2]), rewards, torch.full((1, 2), 0.5, dtype=torch.float64))
    draw = torch.Generator().manual_seed(0)
    chosen = [tabular._pair(table, 0, 0, draw).trajectories[0].turns[0].token_ids[0] for _ in range(2000)]
    assert chosen.count(1) / 2000 == pytest.approx(1 / (1 + exp(-1)), abs=0.03)


def test_dpo_ends_at_the_best_policy():
    result = make(Run("table", "dpo", 0))
    assert result.before["KL to the optimum"] > 0.15
    assert result.after["KL to the optimum"] < 0.02
    assert result.after["reward"] > result.before["reward"] + 0.3
    assert result.kl == pytest.approx(0.2, abs=0.07)  # as far from the start as the optimum is

"""A critic in units of the returns' running mean and spread, by hand and by invariance."""

from __future__ import annotations

import math

import pytest
import torch

from llmrl.ops.advantages.critic import step_gae
from llmrl.ops.advantages.normalized import normalized_step_gae, return_moments
from llmrl.ops.controllers import value_scale

MASK = torch.tensor([[0, 1, 1, 0, 1], [0, 1, 0, 0, 0]]).bool()
TURNS = torch.tensor([[-1, 0, 0, -1, 1], [-1, 0, -1, -1, -1]])
REWARDS = torch.tensor([[0.0, 0, 1, 0, 4], [0, 3, 0, 0, 0]])
VALUES = torch.tensor([[0.0, 0.5, 9, 9, -1], [0, 0.25, 0, 0, 0]])
CUT = torch.tensor([False, True])


def test_the_moments_are_those_of_the_turns_returns():
    """gamma 1/2: the turns' returns are 1 + 4/2, 4 and 3, whatever the turns' lengths."""
    assert return_moments(REWARDS, MASK, TURNS, gamma=0.5).tolist() == pytest.approx([10 / 3, (9 + 16 + 9) / 3])
    assert return_moments(REWARDS, ~MASK & MASK, TURNS).isnan().all()


def test_the_scale_is_that_of_all_steps_so_far():
    """decay 1/2: weights 1/2 and 1. Means 1 and 4, squares 5 and 17: m = 4.5 / 1.5, q = 19.5 / 1.5, q - m^2 = 4."""
    assert value_scale({}, {}, None)["value/1"] == 1.0
    state = value_scale(value_scale({}, {}, [1.0, 5.0], decay=0.5), {}, [4.0, 17.0], decay=0.5)
    assert (state["value/0"], state["value/1"]) == pytest.approx((3.0, 2.0))
    first = value_scale({}, {}, [7.0, 49.0])
    assert (first["value/0"], first["value/1"]) == pytest.approx((7.0, 0.1))  # equal returns: the least spread


def test_credit_is_that_of_restored_values_and_targets_are_in_the_critics_units():
    """Mean 2, std 4: the values are 4, -2 and 3, and past the row that was cut 2 + 4 * 0.5 = 4; lam 0, gamma 1."""
    scale, final = torch.tensor([2.0, 4.0]), torch.tensor([0.0, 0.5])
    settings = {"gamma": 1.0, "lam": 0.0, "whiten": False}
    found = normalized_step_gae(REWARDS, VALUES, MASK, TURNS, final, CUT, scale, **settings)
    assert found.advantages.tolist() == [[0, -5, -5, 0, 6], [0, 4, 0, 0, 0]]  # 1 - 2 - 4; 4 + 2; 3 + 4 - 3
    expected = torch.tensor([[math.nan, -0.75, math.nan, math.nan, 0.5], [math.nan, 1.25, *[math.nan] * 3]])
    assert torch.equal(found.returns.isnan(), expected.isnan())  # (-1 - 2) / 4, (4 - 2) / 4, (7 - 2) / 4
    assert torch.equal(found.returns.nan_to_num(), expected.nan_to_num())


def test_with_mean_0_and_std_1_it_is_step_gae():
    final = torch.tensor([0.0, 0.5])
    found = normalized_step_gae(REWARDS, VALUES, MASK, TURNS, final, CUT, torch.tensor([0.0, 1.0]), gamma=0.9)
    plain = step_gae(REWARDS, VALUES, MASK, TURNS, final, gamma=0.9)
    assert torch.allclose(found.advantages, plain.advantages)
    assert torch.allclose(found.returns, plain.returns, equal_nan=True)


def test_rewards_on_another_scale_change_no_advantage():
    """Rewards times 10, with the scale that follows them, and the same critic."""
    final = torch.zeros(2)
    one = normalized_step_gae(REWARDS, VALUES, MASK, TURNS, final, CUT, torch.tensor([0.0, 4.0]))
    ten = normalized_step_gae(10 * REWARDS, VALUES, MASK, TURNS, final, CUT, torch.tensor([0.0, 40.0]))
    assert torch.allclose(one.advantages, ten.advantages, atol=1e-6)
    assert torch.allclose(one.returns, ten.returns, equal_nan=True, atol=1e-6)

from __future__ import annotations

import math

import pytest
import torch

from llmrl.ops.shared.recursion import lambda_advantages, next_on_mask


def test_next_value_is_that_of_the_following_response_token():
    mask = torch.tensor([[0, 1, 1, 0, 0, 1, 0], [0] * 7]).bool()
    values = torch.tensor([[9.0, 1, 2, 9, math.nan, 3, 9]] * 2)
    assert next_on_mask(values, mask).tolist() == [[1, 2, 3, 3, 3, 0, 0], [0] * 7]


def test_lambda_may_differ_by_row():
    # V 0, r = [0, 1]: A_0 = lam
    found = lambda_advantages(
        torch.tensor([[0.0, 1]] * 2), torch.zeros(2, 2), torch.ones(2, 2).bool(), lam=torch.tensor([[0.25], [1.0]])
    )
    assert found.tolist() == [[0.25, 1], [1, 1]]


def test_long_rows():
    # one reward at the end of 9000 tokens: A_t = (.9 * .5)^(steps to the end), V 0
    rewards = torch.zeros(1, 9000)
    rewards[0, -1] = 1
    found = lambda_advantages(rewards, torch.zeros(1, 9000), torch.ones(1, 9000).bool(), gamma=0.9, lam=0.5)
    assert found[0, -3:].tolist() == pytest.approx([0.45**2, 0.45, 1])
    assert found[0, 0].item() == 0

"""Losses of value models of prefixes and of probes, against hand-worked numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from llmrl.ops.preference_losses.prefixes import prefix_bce, prefix_cross_entropy, prefix_mse
from llmrl.ops.preference_losses.probes import expected_reward, success_cross_entropy
from llmrl.ops.value_losses import bernoulli
from llmrl.ops.values import probability

MASK = torch.tensor([[False, True, True], [False, True, False], [False, True, True]])
GROUPS = torch.tensor([5, 5, 8])
REWARDS = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
SCORES = torch.tensor([[9.0, 0.0, math.log(3)], [9.0, math.log(3), 9.0], [9.0, 0.0, 0.0]])[..., None]


def test_every_prefix_has_the_outcome_as_its_label():
    # row 0: (log 2 - log .75) / 2; row 1: -log .25; the group of row 2 has one outcome alone
    found = prefix_bce(SCORES, REWARDS, MASK, GROUPS)
    assert_close(found, torch.tensor([(math.log(2) - math.log(0.75)) / 2, -math.log(0.25), 0.0]))
    whole = prefix_bce(SCORES, REWARDS, MASK, GROUPS, drop_uniform=False)
    assert_close(whole, torch.tensor([found[0], found[1], math.log(2)]))
    assert_close(prefix_mse(SCORES, REWARDS, MASK, GROUPS), torch.tensor([(0.25 + 0.0625) / 2, 0.5625, 0.0]))


def test_the_nearest_atom_is_the_class():
    """Of 0, 0.5 and 1; a reward of 0.7 is next to 0.5, and one of 3 counts as 1."""
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(3, 3, 3)
    log_p = torch.tensor([0.0, 1.0, 2.0]).log_softmax(0)
    rewards = torch.tensor([[0.0, 0.0, 0.7], [0.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    found = prefix_cross_entropy(logits, rewards, MASK, GROUPS, drop_uniform=False)
    assert_close(found, -log_p[[1, 2, 0]])


def test_what_stands_off_the_response_has_no_gradient():
    scores = SCORES.clone().requires_grad_()
    prefix_bce(scores, REWARDS, MASK, GROUPS).sum().backward()
    assert scores.grad is not None
    assert (scores.grad[..., 0] != 0).tolist() == [[False, True, True], [False, True, False], [False] * 3]


def test_outcomes_have_to_be_probabilities_and_heads_one():
    with pytest.raises(ValueError, match=r"no probability"):
        prefix_bce(SCORES, 2 * REWARDS, MASK, GROUPS)
    with pytest.raises(ValueError, match="3 heads, expected 1"):
        prefix_mse(torch.zeros(3, 3, 3), REWARDS, MASK, GROUPS)


def test_a_probe_earns_the_reward_of_what_it_chooses():
    # scores [log 3, 0] at temperature 1: rho = [.75, .25]; rewards [1, .2] give .75 + .05 of a group of two
    scores = torch.tensor([math.log(3), 0.0, 7.0], requires_grad=True)
    rewards = torch.tensor([1.0, 0.2, math.nan])
    found = expected_reward(scores, rewards, torch.tensor([1, 1, 1]))
    assert_close(found.detach(), torch.tensor([-1.5, -0.1, 0.0]))
    (found.sum() / 2).backward()
    assert scores.grad is not None
    assert_close(scores.grad, torch.tensor([-0.1875 * 0.8, 0.1875 * 0.8, 0.0]))  # -rho (1 - rho) (r_1 - r_2)
    sharp = expected_reward(scores.detach(), rewards, torch.tensor([1, 1, 1]), temperature=0.5)
    assert_close(sharp, torch.tensor([-1.8, -0.04, 0.0]))  # rho = [.9, .1]


def test_success_cross_entropy_by_hand():
    found = success_cross_entropy(torch.tensor([math.log(3), 0.0, 5.0]), torch.tensor([0.0, 0.5, math.nan]))
    assert_close(found, torch.tensor([-math.log(0.25), math.log(2), 0.0]))
    with pytest.raises(ValueError, match=r"no probability"):
        success_cross_entropy(torch.zeros(1), torch.tensor([1.5]))


def test_a_critic_of_chances():
    outputs = torch.tensor([[[math.log(3)], [0.0]]], requires_grad=True)
    assert_close(probability(outputs).detach(), torch.tensor([[0.75, 0.5]]))
    result = bernoulli(outputs, torch.tensor([[1.0, math.nan]]))
    assert_close(result.loss.detach(), torch.tensor([[-math.log(0.75), 0.0]]))
    assert_close(result.stats["value_error"], torch.tensor([[0.25, 0.0]]))
    result.loss.sum().backward()
    assert outputs.grad is not None
    assert_close(outputs.grad[..., 0], torch.tensor([[-0.25, 0.0]]))
    with pytest.raises(ValueError, match=r"expected 1; set critic\.outputs"):
        probability(torch.zeros(1, 1, 2))

"""Losses of reward models, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from llmrl.ops.preference_losses.reward_models import (
    bradley_terry,
    component_regression,
    inverse_bce,
    reward_regression,
    step_bce,
    step_cross_entropy,
    step_mse,
)

CHOSEN, REJECTED = torch.tensor([2.0, 0.0]), torch.tensor([0.5, 0.0])
REWARDS = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.0])
NAN = math.nan


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_bradley_terry():
    assert bradley_terry(CHOSEN, REJECTED, *REWARDS).tolist() == pytest.approx([softplus(-1.5), math.log(2)])
    wide = bradley_terry(CHOSEN, REJECTED, *REWARDS, margin=0.5)  # d = 1.5 - 0.5 * 2, 0 - 0.5 * 1
    assert wide.tolist() == pytest.approx([softplus(-0.5), softplus(0.5)])
    centred = bradley_terry(CHOSEN, REJECTED, *REWARDS, centring=0.1)  # 0.1 * 2.5^2
    assert centred.tolist() == pytest.approx([softplus(-1.5) + 0.625, math.log(2)])
    smooth = bradley_terry(CHOSEN, REJECTED, *REWARDS, label_smoothing=0.2)
    assert smooth.tolist() == pytest.approx([0.8 * softplus(-1.5) + 0.2 * softplus(1.5), math.log(2)])


def test_a_smoothed_loss_is_least_at_the_share_of_right_labels():
    d = torch.tensor([math.log(0.8 / 0.2)], requires_grad=True)
    zero = torch.zeros(1)
    bradley_terry(d, zero, zero, zero, label_smoothing=0.2).sum().backward()
    assert float(d.grad) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("settings", [{"label_smoothing": 0.5}, {"margin": -1.0}, {"centring": -1.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        bradley_terry(CHOSEN, REJECTED, *REWARDS, **settings)


def test_regression_leaves_out_what_is_not_known():
    scores = torch.tensor([1.0, 5.0], requires_grad=True)
    loss = reward_regression(scores, torch.tensor([3.0, NAN]))
    assert loss.tolist() == [4.0, 0.0]
    loss.sum().backward()
    assert scores.grad.tolist() == [-4.0, 0.0]
    heads = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert component_regression(heads, torch.tensor([[0.0, 4.0], [NAN, 3.0]])).tolist() == [5.0, 9.0]
    with pytest.raises(ValueError, match="2 heads for 3 components of the reward"):
        component_regression(heads, torch.zeros(2, 3))


LABELS = torch.tensor([[NAN, 1.0, NAN, 0.25], [NAN, NAN, NAN, NAN]])


def test_steps_are_read_at_their_last_tokens():
    scores = torch.tensor([[9.0, 2.0, 9.0, -1.0], [9.0, 9.0, 9.0, 9.0]])[..., None]
    by_hand = (softplus(-2.0) + 0.25 * softplus(1.0) + 0.75 * softplus(-1.0)) / 2
    assert step_bce(scores, LABELS).tolist() == pytest.approx([by_hand, 0.0])
    sigmoid = [1 / (1 + math.exp(-x)) for x in (2.0, -1.0)]
    squared = ((sigmoid[0] - 1) ** 2 + (sigmoid[1] - 0.25) ** 2) / 2
    assert step_mse(scores, LABELS).tolist() == pytest.approx([squared, 0.0])
    with pytest.raises(ValueError, match="the model has 2 heads, expected 1"):
        step_bce(scores.expand(2, 4, 2), LABELS)


def test_classes_of_steps():
    scores = torch.zeros(1, 3, 2)
    scores[0, 1] = torch.tensor([0.0, 3.0])
    labels = torch.tensor([[NAN, 1.0, 0.0]])
    assert step_cross_entropy(scores, labels).tolist() == pytest.approx([(softplus(-3.0) + math.log(2)) / 2])
    with pytest.raises(ValueError, match="none of the classes 0 to 1"):
        step_cross_entropy(scores, torch.tensor([[0.5, NAN, NAN]]))
    with pytest.raises(ValueError, match="one head has no classes"):
        step_cross_entropy(scores[..., :1], labels)


def test_inverse_bce_tells_whose_turns_they_are_by_the_implied_rewards():
    """Row 0, an expert's: Q 2 and 3, so d = 2 - 3/2 and 3. Row 1, the policy's: Q 1. Row 2 has no turns.

    tokens    P A A E A      scores of other tokens, here 9, are not read
    """
    scores = torch.tensor([[9.0, 9, 2, 9, 3], [9, 9, 1, 9, 9], [9, 9, 9, 9, 9]], requires_grad=True)
    mask = torch.tensor([[0, 1, 1, 0, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    turns = torch.tensor([[-1, 0, 0, -1, 1], [-1, 0, 0, -1, -1], [-1] * 5])
    found = inverse_bce(scores[..., None], torch.tensor([1.0, 0.0, NAN]), mask, turns, gamma=0.5)
    assert found.tolist() == pytest.approx([(softplus(-0.5) + softplus(-3)) / 2, softplus(1), 0.0])
    found.sum().backward()
    first, second = (-1 / (1 + math.exp(d)) / 2 for d in (0.5, 3))  # of d; Q_2 is in both
    expected = [[0, 0, first, 0, second - 0.5 * first], [0, 0, 1 / (1 + math.exp(-1)), 0, 0], [0] * 5]
    assert torch.allclose(scores.grad, torch.tensor(expected))
    with pytest.raises(ValueError, match="gamma"):
        inverse_bce(scores[..., None], torch.ones(3), mask, turns, gamma=1.5)

"""Implicit Q-learning of tokens by hand: targets, expectiles, credit and the policy's weights."""

from __future__ import annotations

import math

import pytest
import torch

from llmrl.ops.advantages.twin import implicit_q
from llmrl.ops.policy_losses.score import advantage_weighted, nll
from llmrl.ops.value_losses import twin_expectile, twin_squared
from llmrl.ops.value_targets import implicit_td

# P A A E A: the value of what follows the second token is that before the last one, not that before the environment's
MASK = torch.tensor([[0, 1, 1, 0, 1]]).bool()
REWARDS = torch.tensor([[0.0, 0.0, 1.0, 9.0, 2.0]])  # the environment's own token counts for nobody
NONE = math.nan


def outputs(*rows: tuple[float, float, float, float]) -> torch.Tensor:
    """Four outputs at the three response tokens, 100 elsewhere."""
    found = torch.full((1, 5, 4), 100.0)
    found[0, [1, 2, 4]] = torch.tensor(rows)
    return found


X = 100.0  # what nobody reads
BEFORE = outputs((X, X, 1, 3), (X, X, 4, 6), (X, X, 7, 9))  # V of mean 2, 5, 8
AFTER = outputs((3, 5, X, X), (6, 5, X, X), (9, 10, X, X))


@pytest.mark.parametrize("cut", [False, True])
def test_targets(cut):
    """gamma 1/2: 0 + 5/2, 1 + 8/2, 2; V learns the least Q of the target network."""
    slow = outputs((1, 2, X, X), (4, 3, X, X), (6, 7, X, X))
    found = implicit_td(REWARDS, MASK, BEFORE, AFTER, BEFORE, slow, torch.tensor([cut]), gamma=0.5)
    assert found[0, [1, 2]].tolist() == [[2.5, 2.5, 1, 1], [5, 5, 3, 3]]
    assert found[0, 4, 2:].tolist() == [6, 6]
    assert found[0, 4, :2].isnan().all() if cut else found[0, 4, :2].tolist() == [2, 2]
    assert found[0, [0, 3]].isnan().all()


def test_credit():
    assert implicit_q(BEFORE, AFTER, MASK).advantages.tolist() == [[0, 1, 0, 0, 1]]  # 3 - 2, 5 - 5, 9 - 8


def test_an_expectile_weighs_errors_by_their_sign():
    """tau .7: a target 1 above V costs .7, one 1 below costs .3, of which the loss is the half; Q is not weighed."""
    zero = torch.zeros(1, 1, 2, requires_grad=True)
    for target, of_v, slope in ((1.0, 0.7, -0.7), (-1.0, 0.3, 0.3)):
        found = twin_expectile(zero, zero, torch.tensor([[[NONE, target]]]), tau=0.7)
        assert 2 * found.loss.item() == pytest.approx(of_v)
        [gradient] = torch.autograd.grad(found.loss.sum(), zero)
        assert gradient.flatten().tolist() == pytest.approx([0, slope])
        assert twin_expectile(zero, zero, torch.tensor([[[target, NONE]]])).loss.item() == 0.5
    both = torch.tensor([[[2.0, 3.0, NONE, 5.0]]])
    assert 2 * twin_expectile(AFTER[:, :1], BEFORE[:, :1], both, tau=0.5).loss.item() == pytest.approx(
        twin_squared(AFTER[:, :1], BEFORE[:, :1], both).loss.item() + (98**2 + 97**2) / 2
    )
    with pytest.raises(ValueError, match="tau"):
        twin_expectile(zero, zero, both, tau=1.5)


def test_the_least_loss_is_at_the_expectile():
    """Targets 0 and 1 as often: tau (1 - V) = (1 - tau) V, so V = tau."""
    value = torch.tensor([[[0.0, 0.9]], [[0.0, 0.9]]], requires_grad=True)
    targets = torch.tensor([[[NONE, 0.0]], [[NONE, 1.0]]])
    [gradient] = torch.autograd.grad(twin_expectile(value, value, targets, tau=0.9).loss.sum(), value)
    assert gradient[:, 0, 1].sum().item() == pytest.approx(0, abs=1e-6)


def test_weights_of_imitation():
    """beta 1/2: A of 0, log 9 and 100 weigh 1, 3 and the cap."""
    logprobs = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    advantages = torch.tensor([[0.0, math.log(9), 100.0]])
    found = advantage_weighted(logprobs, advantages, beta=0.5, cap=4.0)
    assert found.loss[0].tolist() == pytest.approx([1, 6, 12])
    assert found.stats["weights_capped"].tolist() == [[0, 0, 1]]
    [gradient] = torch.autograd.grad(found.loss.sum(), logprobs)
    assert gradient[0].tolist() == pytest.approx([-1, -3, -4])
    plain = advantage_weighted(logprobs, advantages, beta=0.0)
    assert torch.equal(plain.loss, nll(logprobs).loss)

"""A critic of turns by hand: its targets, its loss, and the credit that it gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llmrl.ops.advantages.twin import twin_q
from llmrl.ops.value_losses import twin_squared
from llmrl.ops.value_targets import choice_td, monte_carlo, twin_td

# P A A E A: a turn of two tokens, and one of one token
MASK = torch.tensor([[0, 1, 1, 0, 1]]).bool()
TURNS = torch.tensor([[-1, 0, 0, -1, 1]])
REWARDS = torch.tensor([[0.0, 0.25, 0.75, 9.0, 2.0]])  # the environment's own token counts for nobody
NONE = math.nan


def outputs(**at: tuple[float, float, float, float]) -> Tensor:
    """Four outputs at the named columns, 100 where nobody may read them."""
    found = torch.full((1, 5, 4), 100.0)
    for column, values in at.items():
        found[0, int(column[1:])] = torch.tensor(values)
    return found


BEFORE = outputs(c1=(100, 100, 10, 20), c4=(100, 100, 3, 5))
AFTER = outputs(c2=(7, 8, 100, 100), c4=(9, 11, 100, 100))


def targets(staleness: int = 0, cut_short: bool = False, **settings) -> list[list[float]]:
    known = torch.tensor([staleness]), torch.tensor([cut_short])
    found = twin_td(REWARDS, MASK, TURNS, BEFORE, AFTER, *known, gamma=0.5, **settings)
    return found.nan_to_num(nan=-1.0)[0].tolist()


def test_targets_by_hand():
    # Q of turn 0: .25 + .75 + .5 V'(turn 1) = 1 + .5 (3, 5); of turn 1, the last: 2. V of turn 0 <- Q' at its end
    nothing = [-1.0] * 4
    assert targets() == [nothing, [-1, -1, 7, 8], [2.5, 3.5, -1, -1], nothing, [2, 2, 9, 11]]
    stale = [nothing, nothing, [2.5, 3.5, -1, -1], nothing, [2, 2, -1, -1]]
    assert targets(staleness=1) == stale
    assert targets(staleness=1, recorded_actions=True) == targets()
    # what a limit cut off goes on, and nobody says how
    assert targets(cut_short=True) == [nothing, [-1, -1, 7, 8], [2.5, 3.5, -1, -1], nothing, [-1, -1, 9, 11]]


def test_the_loss_by_hand():
    returns = torch.tensor([[[NONE] * 4, [NONE] * 4, [NONE] * 4, [NONE] * 4, [2.0, 2.0, 9.0, 11.0]]])
    before, after = outputs(c4=(0, 0, 9, 10)).requires_grad_(), outputs(c4=(1, 3, 0, 0)).requires_grad_()
    found = twin_squared(before, after, returns)
    # Q: 1/2 (1 - 2)^2 + 1/2 (3 - 2)^2, V: 0 + 1/2 (10 - 11)^2
    assert found.loss[0].tolist() == [0, 0, 0, 0, 1.5]
    assert found.stats["value_error"][0].tolist() == [0, 0, 0, 0, 0.75]
    found.loss.sum().backward()
    assert before.grad is not None and after.grad is not None
    assert before.grad[0, 4].tolist() == [0, 0, 0, -1] and after.grad[0, 4].tolist() == [-1, 1, 0, 0]
    assert not before.grad[0, :4].any() and not after.grad[0, :4].any()


def test_credit_by_hand():
    before, after = outputs(c1=(100, 100, 1, 2), c4=(100, 100, 3, 2)), outputs(c2=(4, 6, 0, 0), c4=(5, 1, 0, 0))
    # min (4, 6) - min (1, 2) = 3 on both tokens; min (5, 1) - min (3, 2) = -1
    assert twin_q(before, after, MASK, TURNS).advantages[0].tolist() == [0, 3, 3, 0, -1]
    assert twin_q(before, after, MASK, TURNS, highest=True).advantages[0].tolist() == [0, 4, 4, 0, 2]
    whitened = twin_q(before, after, MASK, TURNS, whiten=True).advantages[0]  # of turns 3 and -1: mean 1, std sqrt 8
    torch.testing.assert_close(whitened, torch.tensor([0, 1, 1, 0, -1]) / 2**0.5)


def test_monte_carlo_by_hand():
    # 2; then .75 + .5 2, the environment's reward apart; then .25 + .5 1.75
    assert monte_carlo(REWARDS, MASK, gamma=0.5)[0].nan_to_num(nan=-1.0).tolist() == [-1, 1.125, 1.75, -1, 2]


def test_an_odd_number_of_outputs_is_refused():
    with pytest.raises(ValueError, match="as many outputs for Q as for V, got 3"):
        twin_q(BEFORE[..., :3], AFTER[..., :3], MASK, TURNS)


def test_soft_targets_over_a_list_by_hand():
    """An episode of two turns, and a list of two actions of pi 1/4 and 3/4: their sums are log 1/8 and log 3/8.

    V = 1/4 (min (2, 3) - alpha log 1/4) + 3/4 (min (6, 5) - alpha log 3/4) = 4.25 + alpha 0.562335
    """
    mask = torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]]).bool()
    turns = torch.where(mask, 0, -1)
    turns[0] = TURNS[0]
    rewards = torch.cat([REWARDS, torch.zeros(2, 5)])
    given = torch.full((3, 5), NONE)
    given[0, [2, 4]] = 0.0  # a reward of 0 is one
    logprobs = torch.tensor([[9.0] * 5, [9, 9, 9, math.log(1 / 2), math.log(1 / 4)], [9, 9, 9, 9, math.log(3 / 8)]])
    before = torch.cat([BEFORE, torch.full((2, 5, 4), 100.0)])
    after = torch.cat([AFTER, outputs(c4=(2, 3, 100, 100)), outputs(c4=(6, 5, 100, 100))])
    groups, cut = torch.tensor([3, 5, 5]), torch.zeros(3, dtype=torch.bool)
    found = choice_td(rewards, given, mask, turns, groups, logprobs, before, after, cut, gamma=0.5, alpha=2.0)
    # Q as by twin_td; the trajectory says nothing of V, and the list nothing of Q
    expected = torch.tensor(targets(staleness=1))
    torch.testing.assert_close(found[0].nan_to_num(nan=-1.0), expected)
    value = 4.25 + 2 * -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    for row, column in ((1, 3), (2, 4)):  # before the first token of each action
        assert found[row, column, 2:].tolist() == pytest.approx([value] * 2)
        assert found[row].isfinite().sum() == 2

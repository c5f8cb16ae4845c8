"""Losses that make log-probabilities values: hand-worked numbers, and the optimum of a small tree."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from llmrl.ops.advantages.soft import soft_lambda, step_differences
from llmrl.ops.policy_losses.soft_values import (
    advantage_regression,
    path_consistency,
    step_advantage_regression,
    td_regularized_nll,
)

MASK = torch.tensor([[False, True, False, True, True]])  # a hole of the environment's after the first token
JUNK = math.nan


def row(*values: float) -> torch.Tensor:
    """The values on the response tokens of MASK, junk elsewhere."""
    found = torch.full(MASK.shape, JUNK)
    found[MASK] = torch.tensor(values, dtype=torch.float)
    return found


def test_path_consistency_by_hand():
    # log ratios [.2, -.4, .1], beta .5: gains [-.1, .2, 1 - .05 = .95], to go [1.05, 1.15, .95];
    # values .5 * (log partitions [2, 1, 3] - [1, 2, 3]) = [.5, -.5, 0]; residuals [.55, 1.65, .95]
    logprobs = row(-0.8, -1.4, -0.9).requires_grad_()
    partition = row(2.0, 1.0, 3.0).requires_grad_()
    result = path_consistency(
        logprobs, partition, row(-1.0, -1.0, -1.0), row(1.0, 2.0, 3.0), row(0.0, 0.0, 1.0), MASK, beta=0.5
    )
    assert_close(result.loss[MASK].detach(), torch.tensor([0.55**2, 1.65**2, 0.95**2]))
    assert result.loss[~MASK].tolist() == [0.0, 0.0]
    assert_close(result.stats["value"][MASK], torch.tensor([0.5, -0.5, 0.0]))
    result.loss.sum().backward()
    assert logprobs.grad is not None and partition.grad is not None
    # d/d logprobs_t = -2 beta sum_{s <= t} e_s, d/d partition_t = -2 beta e_t
    assert_close(logprobs.grad[MASK], -torch.tensor([0.55, 2.2, 3.15]))
    assert_close(partition.grad[MASK], -torch.tensor([0.55, 1.65, 0.95]))


def optimum(beta: float) -> tuple[torch.Tensor, dict[tuple[int, int], tuple[list[float], list[float], list[float]]]]:
    """The optimal soft policy of two binary tokens, whose answers have these rewards, and the terms of each answer."""
    rewards = torch.tensor([[1.0, 0.0], [0.3, 0.6]])
    reference = torch.tensor([[0.5, -0.2], [0.1, 0.4], [-0.3, 0.0]]).double()  # logits of the start, after 0, after 1
    log_ref = reference.log_softmax(-1)
    second = rewards.double() + beta * reference[1:]
    values = torch.stack([beta * torch.logsumexp(second[a] / beta, 0) for a in (0, 1)])
    shifted = values - beta * torch.logsumexp(reference[1:], -1)
    first = shifted + beta * reference[0]
    logits = torch.cat([first[None], second]) / beta
    found = {}
    for a in (0, 1):
        for b in (0, 1):
            states, tokens = (0, 1 + a), (a, b)
            own, ref = logits.log_softmax(-1), log_ref
            found[a, b] = (
                [float(own[s, t]) for s, t in zip(states, tokens, strict=True)],
                [float(torch.logsumexp(logits[s], 0)) for s in states],
                [float(ref[s, t]) for s, t in zip(states, tokens, strict=True)],
            )
    return reference, found


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_at_the_optimum_every_answer_is_consistent(beta):
    """Whoever wrote it: the residual of all suffixes of all four answers is 0."""
    reference, found = optimum(beta)
    rewards = {(0, 0): 1.0, (0, 1): 0.0, (1, 0): 0.3, (1, 1): 0.6}
    whole = torch.ones(1, 2, dtype=torch.bool)
    for answer, (own, partition, ref) in found.items():
        of_reference = torch.logsumexp(reference[[0, 1 + answer[0]]], -1)[None]
        tensors = [torch.tensor([one]).double() for one in (own, partition, ref)]
        paid = torch.tensor([[0.0, rewards[answer]]])
        loss = path_consistency(tensors[0], tensors[1], tensors[2], of_reference, paid, whole, beta=beta).loss
        assert_close(loss, torch.zeros(1, 2), atol=1e-9, rtol=0)


def test_soft_lambda_by_hand():
    # beta .5, log ratios [.2, -.4, 0], rewards [0, 0, 1]: q = [-.1, .2, 1]; values [.5, .25, .75]
    data = row(0, 0, 1), row(0.5, 0.25, 0.75), row(-0.8, -1.4, -1), row(-1, -1, -1), MASK
    full = soft_lambda(*data, beta=0.5, lam=1.0)
    assert full.returns is not None
    assert_close(full.returns[MASK], torch.tensor([1.1, 1.2, 1.0]))
    assert_close(full.advantages[MASK], torch.tensor([1.2 - 0.5, 1.0 - 0.25, 1.0 - 0.75]))
    assert full.returns[~MASK].isnan().all() and (full.advantages[~MASK] == 0).all()
    half = soft_lambda(*data, beta=0.5, lam=0.5)
    # G_3 = 1, G_2 = .2 + .5 * .75 + .5 * 1 = 1.075, G_1 = -.1 + .5 * .25 + .5 * 1.075 = .5625
    assert half.returns is not None
    assert_close(half.returns[MASK], torch.tensor([0.5625, 1.075, 1.0]))
    one_step = soft_lambda(*data, beta=0.5, lam=0.0)
    assert one_step.returns is not None
    assert_close(one_step.returns[MASK], torch.tensor([-0.1 + 0.25, 0.2 + 0.75, 1.0]))


def test_advantage_regression_by_hand():
    logprobs = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    result = advantage_regression(logprobs, torch.tensor([[-1.5, -2.0]]), torch.tensor([[1.0, -0.5]]), beta=0.5)
    assert_close(result.loss.detach(), torch.tensor([[0.75**2, 0.25]]))  # .25 - 1 and 0 + .5
    result.loss.sum().backward()
    assert logprobs.grad is not None
    assert_close(logprobs.grad, torch.tensor([[-0.75, 0.5]]))


STEPS = torch.tensor([[-1, 0, -1, 0, 1], [-1, 0, 1, -1, -1]])
TWO = torch.tensor([[False, True, False, True, True], [False, True, True, False, False]])


def test_steps_are_worth_what_they_add_to_the_value():
    values = torch.tensor([[JUNK, 0.4, JUNK, 0.9, 0.7], [JUNK, 0.4, 0.1, JUNK, JUNK]])
    rewards = torch.tensor([[9.0, 0.0, 9.0, 0.0, 1.0], [9.0, 0.0, 0.0, 9.0, 9.0]])
    found = step_differences(rewards, values, TWO, STEPS, whiten=False)
    assert_close(found.advantages, torch.tensor([[0, 0.3, 0, 0.3, 0.3], [0, -0.3, -0.1, 0, 0]]))
    assert found.returns is not None
    learnt = found.returns.isfinite()
    assert learnt.tolist() == [[False, True, False, False, True], [False, True, True, False, False]]
    assert found.returns[learnt].tolist() == [1.0, 1.0, 0.0, 0.0]
    white = step_differences(rewards, values, TWO, STEPS).advantages
    steps = torch.tensor([0.3, 0.3, -0.3, -0.1])  # each once, whatever its length
    assert_close(white[learnt], (steps - steps.mean()) / steps.std())


def test_step_advantage_regression_by_hand():
    # step 0 of row 0: u = .1 + .2 = .3, A / beta = 1: -.7; its step 1: u = -.5, A / beta = 1: -1.5;
    # row 1: u = 0 - (-1) = 1 and .4 + .5 = .9
    new = torch.tensor([[JUNK, -0.9, JUNK, -0.8, -1.5], [JUNK, -1.0, -0.6, JUNK, JUNK]], requires_grad=True)
    old = torch.where(TWO, torch.tensor(-1.0), torch.tensor(JUNK))
    credit = torch.tensor([[0, 0.5, 0, 0.5, 0.5], [0, -0.5, -0.25, 0, 0]])
    result = step_advantage_regression(new, old, credit, STEPS, TWO, beta=0.5)
    expected = torch.zeros(2, 5)
    expected[0, 3], expected[0, 4], expected[1, 1], expected[1, 2] = 0.49 / 2, 2.25 / 2, 0.5, 0.81 / 2
    assert_close(result.loss.detach(), expected)
    result.loss.sum().backward()
    assert new.grad is not None
    assert_close(new.grad[TWO], torch.tensor([-0.7, -0.7, -1.5, 1.0, 0.9]))


def test_td_regularized_nll_by_hand():
    # Q = logprob + log partition = [1, .5, 2], V next = [1.5, 3, 0]: implied rewards 1 - .75, .5 - 1.5, 2
    logprobs = row(-1.0, -1.0, -1.0).requires_grad_()
    result = td_regularized_nll(logprobs, row(2.0, 1.5, 3.0), MASK, weight=0.1, gamma=0.5)
    assert_close(result.stats["implied_reward"][MASK], torch.tensor([0.25, -1.0, 2.0]))
    assert_close(result.loss[MASK].detach(), torch.tensor([1.00625, 1.1, 1.4]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: path_consistency(*[torch.zeros(1, 1)] * 5, torch.ones(1, 1).bool(), beta=0.0), "beta: 0.0"),
        (lambda: soft_lambda(*[torch.zeros(1, 1)] * 4, torch.ones(1, 1).bool(), lam=1.5), "lam: 1.5"),
        (lambda: td_regularized_nll(*[torch.zeros(1, 1)] * 2, torch.ones(1, 1).bool(), weight=0.0), "weight: 0.0"),
    ],
)
def test_settings_out_of_range_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()

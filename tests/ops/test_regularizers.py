from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrl.ops import regularizers
from llmrl.ops.regularizers import kl_k1, kl_k2, kl_k3

LOGITS = torch.tensor([0.4, -1.2, 0.9, 0.0, -0.3], dtype=torch.float32)
REF = torch.tensor([-0.5, 0.8, 0.1, 1.3, -0.9], dtype=torch.float32).log_softmax(0)


@pytest.mark.parametrize(
    ("penalty", "value", "gradient"),
    [
        # pi = .3, ref = .5, d = ln .6 = -.510826
        (kl_k1, -0.510826, 1.0),
        (kl_k2, 0.130471, -0.510826),  # d^2 / 2; d
        (kl_k3, 0.155841, -0.666667),  # .5/.3 - 1 + ln .6; 1 - .5/.3
    ],
)
def test_by_hand(penalty, value, gradient):
    logprobs = torch.tensor([[math.log(0.3)]], requires_grad=True)
    loss = penalty(logprobs, torch.tensor([[math.log(0.5)]]))
    assert loss.item() == pytest.approx(value, abs=1e-6)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.item() == pytest.approx(gradient, abs=1e-6)


def expectation(penalty):
    """Value and gradient of the penalty averaged over pi, the sampling itself carrying no gradient."""
    logits = LOGITS.clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    mean = (logprobs.detach().exp() * penalty(logprobs, REF)).sum()
    return mean.item(), torch.autograd.grad(mean, logits)[0]


def gradient_of(divergence):
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad(divergence(logits.log_softmax(0)), logits)[0]


def reverse_kl(logprobs):
    return (logprobs.exp() * (logprobs - REF)).sum()


def forward_kl(logprobs):
    return (REF.exp() * (REF - logprobs)).sum()


def test_k1_moves_nothing_on_average():
    value, gradient = expectation(kl_k1)
    assert value == pytest.approx(reverse_kl(LOGITS.log_softmax(0)).item(), abs=1e-6)
    torch.testing.assert_close(gradient, torch.zeros(5), atol=1e-7, rtol=0)
    assert list(regularizers.REWARD_ONLY) == ["kl_k1"]


def test_k2_moves_as_the_reverse_kl():
    torch.testing.assert_close(expectation(kl_k2)[1], gradient_of(reverse_kl), atol=1e-6, rtol=0)
    assert gradient_of(reverse_kl).abs().max() > 0.1


def test_k3_measures_the_reverse_kl_and_moves_as_the_forward_kl():
    value, gradient = expectation(kl_k3)
    assert value == pytest.approx(reverse_kl(LOGITS.log_softmax(0)).item(), abs=1e-6)
    torch.testing.assert_close(gradient, gradient_of(forward_kl), atol=1e-6, rtol=0)
    assert (gradient - gradient_of(reverse_kl)).abs().max() > 0.1


@given(difference=st.floats(-19, 19))
def test_naive_and_never_negative(difference):
    logprobs, ref = torch.tensor([[difference - 20]]), torch.tensor([[-20.0]])
    d = (logprobs - ref).item()
    assert kl_k1(logprobs, ref).item() == pytest.approx(d)
    assert kl_k2(logprobs, ref).item() == pytest.approx(d * d / 2, rel=1e-5)
    assert kl_k3(logprobs, ref).item() == pytest.approx(math.expm1(-d) + d, rel=1e-5, abs=1e-6)
    assert min(kl_k2(logprobs, ref).item(), kl_k3(logprobs, ref).item()) >= 0


def test_k3_keeps_its_digits_near_the_reference():
    # d = 1e-3: k3 = d^2/2 - d^3/6 = 4.998334e-7, which exp(-d) - 1 + d in fp32 gets wrong in the second digit
    assert kl_k3(torch.tensor(1e-3), torch.tensor(0.0)).item() == pytest.approx(4.998334e-7, rel=1e-3)


def test_k3_does_not_overflow():
    logprobs = torch.tensor([[-200.0]], requires_grad=True)
    penalty = kl_k3(logprobs, torch.tensor([[-1.0]]))
    penalty.sum().backward()
    assert penalty.item() == pytest.approx(math.exp(20) - 21, rel=1e-6)
    assert logprobs.grad is not None
    assert logprobs.grad.item() == 0


def test_entropy_bonus_flattens_the_distribution():
    logits = LOGITS.clone().requires_grad_()

    def entropy():
        logprobs = logits.log_softmax(0)
        return -(logprobs.exp() * logprobs).sum()

    before = entropy()
    penalty = regularizers.entropy_bonus(before)
    assert penalty.item() == -before.item()
    (step,) = torch.autograd.grad(penalty, logits)
    with torch.no_grad():
        logits -= 0.1 * step
    assert entropy() > before + 1e-3

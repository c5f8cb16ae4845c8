from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrl.ops import regularizers
from llmrl.ops.regularizers import adaptive_kl_k1, entropy_window, gated_kl, kl_k1, kl_k2, kl_k3, past_kl, proximal_kl
from llmrl.pieces import catalogue

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
    marked = [name for name, penalty in catalogue(regularizers).items() if hasattr(penalty, "reward_only")]
    assert marked == ["kl_k1", "adaptive_kl_k1"]


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


def test_proximal_kl_is_the_kl_to_the_policy_that_sampled():
    # the tokens are REF's here: sums over the vocabulary weighted by REF, not by pi
    logits = LOGITS.clone().requires_grad_()
    penalty = proximal_kl(logits.log_softmax(0) - REF)
    mean = (REF.exp() * penalty).sum()
    assert mean.item() == pytest.approx(reverse_kl(LOGITS.log_softmax(0)).item(), abs=1e-6)
    torch.testing.assert_close(torch.autograd.grad(mean, logits)[0], gradient_of(reverse_kl), atol=1e-6, rtol=0)
    assert (gradient_of(forward_kl) - gradient_of(reverse_kl)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("ratio", "value", "gradient"),
    [
        (1.0, 0.0, 0.0),
        (2.0, 0.386294, 1.386294),  # 2 ln 2 - 1; 2 ln 2
        (0.5, 0.153426, -0.346574),  # -.5 ln 2 + .5; -.5 ln 2
    ],
)
def test_proximal_kl_by_hand(ratio, value, gradient):
    log_ratio = torch.tensor([[math.log(ratio)]], requires_grad=True)
    penalty = proximal_kl(log_ratio)
    penalty.sum().backward()
    assert penalty.item() == pytest.approx(value, abs=1e-6)
    assert log_ratio.grad is not None
    assert log_ratio.grad.item() == pytest.approx(gradient, abs=1e-6)


def test_proximal_kl_does_not_overflow():
    log_ratio = torch.tensor([[200.0, -200.0]], requires_grad=True)
    penalty = proximal_kl(log_ratio)
    penalty.sum().backward()
    assert penalty.tolist()[0] == pytest.approx([19 * math.exp(20) + 1, 1.0], rel=1e-5)
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == [[0.0, 0.0]]


def test_controlled_coefficients_scale_value_and_gradient():
    # d = .3 - .5 in logs: -.2; k1 -.2, k2 .02
    logprobs, ref = torch.tensor([[0.3]], requires_grad=True), torch.tensor([[0.5]])
    assert adaptive_kl_k1(logprobs, ref, torch.tensor(1.5)).item() == pytest.approx(-0.3)
    assert adaptive_kl_k1(logprobs, ref, torch.tensor(1.0)).item() == kl_k1(logprobs, ref).item()
    penalty = gated_kl(logprobs, ref, torch.tensor(0.5))
    assert penalty.item() == pytest.approx(0.01)
    (gradient,) = torch.autograd.grad(penalty, logprobs)
    assert gradient.item() == pytest.approx(-0.1)
    closed = gated_kl(logprobs, ref, torch.tensor(0.0))
    assert torch.autograd.grad(closed, logprobs)[0].item() == 0


def test_gated_kl_has_the_slope_of_the_published_penalty():
    # .1 relu(KL - limit)^2 gate at KL .9, limit .45, gate 2: what kl_gate gives there
    coefficient = torch.tensor(0.18)  # 2 * .1 * (.9 - .45) * 2
    kl = torch.tensor(0.9, requires_grad=True)
    (slope,) = torch.autograd.grad(0.1 * torch.relu(kl - 0.45).square() * 2, kl)
    assert slope.item() == pytest.approx(coefficient.item())


def test_absolute_log_ratio_pulls_back_from_both_sides():
    log_ratio = torch.tensor([[0.5, -0.25, 0.0]], requires_grad=True)
    penalty = regularizers.absolute_log_ratio(log_ratio)
    penalty.sum().backward()
    assert penalty.tolist() == [[0.5, 0.25, 0.0]]
    assert log_ratio.grad is not None
    assert log_ratio.grad.tolist() == [[1.0, -1.0, 0.0]]


def test_nll_raises_the_token():
    logprobs = torch.tensor([[-2.0]], requires_grad=True)
    penalty = regularizers.nll(logprobs)
    assert penalty.item() == 2.0
    assert torch.autograd.grad(penalty, logprobs)[0].item() == -1.0


def window(entropy, history, progress=0.0, **settings):
    entropy = torch.tensor([entropy], requires_grad=True)
    penalty = entropy_window(entropy, torch.tensor(history), torch.tensor(progress), **settings)
    return penalty[0].tolist(), torch.autograd.grad(penalty.sum(), entropy)[0][0].tolist()


def test_entropy_window_by_hand():
    # history 2: window [1.6, 2.4]
    penalty, gradient = window([1.0, 2.0, 3.0], 2.0)
    assert penalty == pytest.approx([0.6, 0.0, 0.6])
    assert gradient == [-1.0, 0.0, 1.0]
    penalty, gradient = window([1.0, 2.0, 3.0], 2.0, low=0.0, high=1.0)
    assert penalty == pytest.approx([0.0, 0.0, 1.0])


def test_entropy_window_is_closed_before_there_is_a_history():
    assert window([0.0, 5.0], math.nan) == ([0.0, 0.0], [0.0, 0.0])


@pytest.mark.parametrize(
    ("progress", "strength"),
    [
        (0.0, 1.0),
        (0.25, 0.873576),  # 1 - .2 (1 - e^-1)
        (0.5, 0.827067),  # 1 - .2 (1 - e^-2), at step 75 of 150
        (76 / 150, 0.768632),  # .8 e^(-3/75): a jump of the source's
        (0.75, 0.178504),  # .8 e^-1.5
        (1.0, 0.039830),  # .8 e^-3
    ],
)
def test_entropy_window_fades(progress, strength):
    penalty, gradient = window([4.0], 2.0, progress)
    assert penalty == pytest.approx([1.6 * strength], rel=1e-5)
    assert gradient == pytest.approx([strength], rel=1e-5)
    assert window([4.0], 2.0, progress, anneal=False)[0] == pytest.approx([1.6])


@pytest.mark.parametrize("settings", [{"low": -0.1}, {"low": 1.5, "high": 1.2}])
def test_entropy_window_ranges(settings):
    with pytest.raises(ValueError, match="low"):
        window([1.0], 1.0, **settings)


def test_past_kl_changes_its_anchor_with_the_moves():
    """Log ratios 0.2 to the newest and -0.6 to the one before; mirror prox keeps the latter for its second half."""
    logprobs = torch.tensor([[-1.0]])
    past = torch.tensor([[[-1.2, -0.4]]])
    for moves, period, expected in [(0, 1, 0.2), (1, 1, 0.2), (0, 2, 0.2), (1, 2, -0.6), (2, 2, 0.2), (3, 2, -0.6)]:
        found = past_kl(logprobs, past, torch.tensor(moves), period=period)
        assert found.item() == pytest.approx(expected**2 / 2), (moves, period)
    for period in (0, 3):
        with pytest.raises(ValueError, match=r"period: . is not valid, expected a number from 1 to history\.kept 2"):
            past_kl(logprobs, past, torch.tensor(0), period=period)

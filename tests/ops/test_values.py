from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.ops.values import bounded, expectation, mean, softmin

seeds = st.integers(0, 10_000)


def heads(*values: float):
    return torch.tensor([[values]], dtype=torch.float)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_mean_by_hand():
    outputs = torch.tensor([[[1.0, 2.0, 6.0], [0.0, 0.0, -3.0]]])
    assert mean(outputs).tolist() == [[3, -1]]


def test_bounded_by_hand():
    # sigmoids 1/2 and 3/4, of mean 5/8, on the range from -1 to 3
    assert bounded(heads(0, math.log(3)), low=-1, high=3).item() == pytest.approx(1.5)
    assert bounded(heads(-1000)).item() == 0 and bounded(heads(1000), high=2).item() == 2
    with pytest.raises(ValueError, match="low: 1 is not valid"):
        bounded(heads(0), low=1, high=1)


def test_softmin_by_hand():
    # 1, 1: their common value; 1, .5: -.3 (log(e^(-10/3) + e^(-5/3)) - log 2)
    assert softmin(heads(1, 1)).item() == pytest.approx(1)
    assert softmin(heads(1, 0.5)).item() == pytest.approx(0.656042, abs=1e-6)


@settings(max_examples=30)
@given(seed=seeds, temperature=st.floats(0.05, 5), count=st.integers(1, 6))
def test_softmin_lies_between_the_least_head_and_the_mean(seed, temperature, count):
    outputs = noise(seed, 3, 4, count)
    found = softmin(outputs, temperature=temperature)
    assert (found >= outputs.amin(-1) - 1e-5).all()
    assert (found <= outputs.mean(-1) + 1e-5).all()
    torch.testing.assert_close(softmin(outputs + 2, temperature=temperature), found + 2, atol=1e-5, rtol=1e-5)


def test_softmin_limits():
    outputs = noise(0, 3, 4, 5)
    torch.testing.assert_close(softmin(outputs, temperature=1e-3), outputs.amin(-1), atol=5e-3, rtol=0)
    torch.testing.assert_close(softmin(outputs, temperature=1e3), outputs.mean(-1), atol=2e-3, rtol=0)
    assert softmin(heads(-1e4, 1e4), temperature=0.01).item() == pytest.approx(-1e4)


def test_softmin_pulls_most_at_the_least_head():
    # dV/dv_j = softmax(-v / a)_j: for 0 and a log 3 the weights are 3/4 and 1/4
    outputs = heads(0, 0.3 * math.log(3)).requires_grad_()
    softmin(outputs).sum().backward()
    assert outputs.grad.flatten().tolist() == pytest.approx([0.75, 0.25])


def test_expectation_by_hand():
    # bin_values -1, 0, 1, 2 with probabilities .1, .2, .3, .4: -.1 + .3 + .8
    outputs = heads(0.1, 0.2, 0.3, 0.4).log() + 5
    assert expectation(outputs, low=-1, high=2).item() == pytest.approx(1)


@settings(max_examples=30)
@given(seed=seeds)
def test_expectation_naive_loop(seed):
    outputs = noise(seed, 2, 3, 7)
    found = expectation(outputs, low=-2, high=1)
    for i in range(2):
        for t in range(3):
            weights = [math.exp(x) for x in outputs[i, t].tolist()]
            total = sum(w * (-2 + 0.5 * k) for k, w in enumerate(weights)) / sum(weights)
            assert found[i, t].item() == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("function", [mean, softmin, lambda x: expectation(x, low=0, high=1)])
def test_half_precision_outputs_become_fp32_values(function):
    outputs = noise(1, 2, 3, 4).bfloat16()
    found = function(outputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, function(outputs.float()))


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="temperature: 0"):
        softmin(heads(1, 2), temperature=0)
    with pytest.raises(ValueError, match="low: 1 is not valid, expected a number below high = 1"):
        expectation(heads(1, 2), low=1, high=1)
    with pytest.raises(ValueError, match="outputs: 1 per token"):
        expectation(heads(1), low=0, high=1)

"""Readings of guides against hand-worked numbers, and against the equations that they stand for."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from llmrl.ops.guidance import (
    action_value,
    expected_success,
    implicit_reward,
    mixture,
    product,
    return_distribution,
    success,
    value_ratio,
)


def outputs(*values: float) -> torch.Tensor:
    return torch.tensor(values)[None, :, None]


def test_the_soft_value_of_an_outcome():
    """log(1 + e^10) - log 2, and log(1 + e^5) - log(1 + e^-5)."""
    found = success(outputs(0.0, -5.0), inverse_temperature=10.0)
    assert_close(found, torch.tensor([[9.3069, 5.0000]]), atol=1e-4, rtol=0)
    p = torch.tensor([0.2, 0.9])
    exact = (1 - p + p * math.exp(3.0)).log()
    assert_close(success(p.logit()[None, :, None], inverse_temperature=3.0)[0], exact)


def test_two_atoms_are_an_outcome_of_0_or_1():
    logits = torch.tensor([[[0.0, 1.5], [0.0, -2.0]]])
    assert_close(
        return_distribution(logits, inverse_temperature=4.0),
        success(logits[..., 1:], inverse_temperature=4.0),
    )
    halves = return_distribution(torch.zeros(1, 1, 3), inverse_temperature=2.0, low=-1.0)  # atoms -1, 0, 1
    assert float(halves) == pytest.approx(math.log((math.exp(-2) + 1 + math.exp(2)) / 3))


def test_a_large_inverse_temperature_overflows_nowhere():
    found = success(outputs(-200.0, 0.0, 200.0), inverse_temperature=1000.0)
    assert_close(found, torch.tensor([[800.0, 1000 - math.log(2), 1000.0]]))


def test_the_ratio_of_values():
    """sigmoid(1) / sigmoid(0) = 0.7311 / 0.5 = 1.4621."""
    ratio = value_ratio(outputs(1.0, 0.0), torch.tensor([[0.0]])).exp()
    assert_close(ratio, torch.tensor([[1.4621, 1.0]]), atol=1e-4, rtol=0)
    squared = value_ratio(outputs(1.0), torch.tensor([[0.0]]), temperature=0.5).exp()
    assert float(squared) == pytest.approx(1.4621**2, abs=1e-3)


def test_values_times_a_weight():
    assert_close(expected_success(outputs(0.0, math.log(3)), weight=4.0), torch.tensor([[2.0, 3.0]]))
    heads = torch.tensor([[[1.0, 0.5], [0.0, 2.0]]])
    assert action_value(heads, weight=2.0).tolist() == [[1.0, 0.0]]


def test_a_log_ratio():
    q, ref = torch.tensor([[0.5, 0.2]]).log(), torch.tensor([[0.25, 0.4]]).log()
    assert_close(implicit_reward(q[..., None], ref, weight=2.0).exp(), torch.tensor([[4.0, 0.25]]))


def test_mixtures_of_models():
    p, q = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[[0.4, 0.5], [0.6, 0.5]]]).log()
    mixed = (p + mixture(q, p, weights=[0.5, 0.25])).exp()
    assert_close(mixed, torch.tensor([[0.25 * 0.8 + 0.5 * 0.4 + 0.25 * 0.5, 0.25 * 0.2 + 0.5 * 0.6 + 0.25 * 0.5]]))
    alone = (p + mixture(q, p, weights=[1.0, 0.0])).exp()
    assert_close(alone, torch.tensor([[0.4, 0.6]]))
    geometric = (p + product(q, p, weights=[0.5, 0.0])).exp()
    assert_close(geometric, torch.tensor([[math.sqrt(0.32), math.sqrt(0.12)]]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: success(torch.zeros(1, 2, 3)), "3 outputs, expected 1"),
        (lambda: success(outputs(0.0), inverse_temperature=0.0), "inverse_temperature: 0.0"),
        (lambda: mixture(torch.zeros(1, 1, 2), torch.zeros(1, 1), weights=[0.5]), "1 for 2 models"),
        (lambda: mixture(torch.zeros(1, 1, 1), torch.zeros(1, 1), weights=[1.5]), "sum of at most 1"),
    ],
)
def test_what_cannot_be_read_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()

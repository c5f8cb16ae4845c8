from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrl.ops.shared.diagnostics import explained_variance, masked_mean, mismatch


def test_masked_mean_by_hand():
    values = torch.tensor([[1.0, math.nan], [4.0, math.inf]])
    mask = torch.tensor([[True, False], [True, False]])
    assert masked_mean(values, mask).item() == 2.5
    assert masked_mean(values, torch.zeros_like(mask)).item() == 0


def test_mismatch_by_hand():
    # old - rollout on the response: ln .5 and ln 2; mean and max of |d| are ln 2 = .693147
    # k3: (.5 - 1 + .693147 + 2 - 1 - .693147) / 2 = .25
    rollout = torch.tensor([[0.0, -1.0, -1.0]])
    old = rollout + torch.tensor([[9.0, math.log(0.5), math.log(2)]])
    found = mismatch(old, rollout, torch.tensor([[False, True, True]]))
    assert {name: round(x.item(), 5) for name, x in found.items()} == {
        "mismatch_mean": 0.69315,
        "mismatch_max": 0.69315,
        "mismatch_k3": 0.25,
    }


def test_k3_estimates_the_divergence_from_the_sampler():
    # enumerate the sampler's distribution: sum_v p_rollout k3 = sum_v p_rollout (log p_rollout - log p_old)
    rollout = torch.tensor([0.1, 0.2, 0.7])
    old = torch.tensor([0.3, 0.3, 0.4])
    counts = torch.tensor([1, 2, 7])  # tokens in the sampler's exact proportions
    tokens = torch.arange(3).repeat_interleave(counts)
    found = mismatch(old.log()[tokens][None], rollout.log()[tokens][None], torch.ones(1, 10, dtype=torch.bool))
    exact = (rollout * (rollout / old).log()).sum().item()
    assert found["mismatch_k3"].item() == pytest.approx(exact, abs=1e-6)
    assert exact != pytest.approx((old * (old / rollout).log()).sum().item(), abs=1e-2)


@given(seed=st.integers(0, 10_000))
def test_naive_loop_on_ragged_rows(ragged, seed):
    rows = ragged(seed)
    old, rollout = rows.logprobs(), rows.logprobs()
    junk = torch.where(rows.mask, 0.0, 100.0)
    found = mismatch(old + junk, rollout, rows.mask)
    d = [x for x, real in zip((old - rollout).flatten().tolist(), rows.mask.flatten().tolist(), strict=True) if real]
    assert found["mismatch_mean"].item() == pytest.approx(sum(map(abs, d)) / len(d), abs=1e-5)
    assert found["mismatch_max"].item() == pytest.approx(max(map(abs, d)), abs=1e-5)
    assert found["mismatch_k3"].item() == pytest.approx(sum(math.exp(x) - 1 - x for x in d) / len(d), rel=1e-4)


def test_broken_logprobs_show():
    one = torch.ones(1, 1, dtype=torch.bool)
    assert mismatch(torch.tensor([[-1.0]]), torch.tensor([[-math.inf]]), one)["mismatch_max"].item() == math.inf
    assert mismatch(torch.tensor([[math.nan]]), torch.tensor([[-1.0]]), one)["mismatch_mean"].isnan()


def test_explained_variance_by_hand():
    # returns 0, 2, 4: variance 8/3; errors 0, 1, -1: variance 2/3; 1 - 1/4. The last two do not count
    returns = torch.tensor([[0.0, 2, 4, math.nan, 50]])
    values = torch.tensor([[0.0, 1, 5, 7, math.inf]])
    mask = torch.tensor([[True, True, True, True, False]])
    assert explained_variance(values, returns, mask).item() == pytest.approx(0.75)
    assert explained_variance(returns, returns, mask).item() == 1
    assert explained_variance(returns + 3, returns, mask).item() == 1  # a constant error has no variance
    assert explained_variance(torch.full_like(returns, 9), returns, mask).item() == 0
    assert explained_variance(-returns, returns, mask).item() == -3  # errors 2 R: 1 - 4


def test_nothing_to_explain_is_zero():
    mask = torch.ones(1, 3, dtype=torch.bool)
    values, constant = torch.tensor([[0.1, 0.2, 0.3]]), torch.full((1, 3), 0.1)
    assert explained_variance(values, constant, mask).item() == 0
    assert explained_variance(constant, constant, mask).item() == 0
    assert explained_variance(values, constant + 1e-8 * values, mask).item() == 0  # only rounding
    assert explained_variance(values, values, torch.zeros_like(mask)).item() == 0
    assert explained_variance(values, torch.full((1, 3), math.nan), mask).item() == 0
    assert explained_variance(values, values, torch.tensor([[True, False, False]])).item() == 0


def test_a_broken_critic_shows():
    values, returns = torch.tensor([[math.nan, 1.0]]), torch.tensor([[0.0, 1.0]])
    assert explained_variance(values, returns, torch.ones(1, 2, dtype=torch.bool)).isnan()


@given(seed=st.integers(0, 10_000))
def test_explained_variance_naive_loop(ragged, seed):
    rows = ragged(seed)
    returns = torch.where(rows.mask, rows.noise(), math.nan)
    values = rows.noise()
    pairs = [(values[i, t].item(), returns[i, t].item()) for i, t in rows.mask.nonzero().tolist()]

    def variance(numbers):
        mean = sum(numbers) / len(numbers)
        return sum((x - mean) ** 2 for x in numbers) / len(numbers)

    expected = 1 - variance([r - v for v, r in pairs]) / variance([r for _, r in pairs])
    found = explained_variance(values, returns, torch.ones_like(rows.mask)).item()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrl.ops import allocation
from llmrl.ops.allocation import by_difficulty, gvm, xrpo


def half_width(std, n, confidence=0.05):
    return std * allocation._half_width(n, confidence)


def gvm_of(successes, norms, budget, **settings):
    samples = torch.full((len(successes),), 8)
    return gvm(torch.tensor(successes), samples, torch.tensor(norms), torch.tensor(budget), **settings).tolist()


def test_gvm_by_hand():
    # p = .25, .5, 1, 0: raw = 2 / sqrt(.25 + .004) = 3.9684, 2 / sqrt(.502) = 2.8228, 1 / sqrt(1.001) = .9995, 0
    # shares .509376 .362329 .128295 0, of 32: 16.30 11.59 4.11; rounded down they sum to 31, the last goes to .59
    assert gvm_of([2, 4, 8, 0], [2.0, 2, 1, 3], 32) == [16, 12, 4, 0]


def test_gvm_shares_show_in_a_large_budget():
    counts = gvm_of([2, 4, 8, 0], [2.0, 2, 1, 3], 1_000_000)
    assert counts == [509376, 362329, 128295, 0]


def test_gvm_filters():
    # without the solved prompt the shares are 3.9684 and 2.8228 of 6.7912: .58434 and .41566 of 32, 18.70 and 13.30
    assert gvm_of([2, 4, 8, 0], [2.0, 2, 1, 3], 32, max_rate=0.9) == [19, 13, 0, 0]
    # expected accepted: 16.30 * .25 = 4.08, 11.59 * .5 = 5.80, 4.11 * 1 = 4.11
    assert gvm_of([2, 4, 8, 0], [2.0, 2, 1, 3], 32, min_accepted=4.1) == [0, 24, 8, 0]  # 2.8228 : .9995 of 32


@pytest.mark.parametrize(
    ("successes", "norms", "settings"),
    [([0, 0, 0], [0.0, 0, 0], {}), ([4, 4, 4], [0.0, 0, 0], {}), ([8, 8, 8], [1.0, 1, 1], {"max_rate": 0.5})],
)
def test_gvm_without_a_useful_prompt_shares_equally(successes, norms, settings):
    assert gvm_of(successes, norms, 8, **settings) == [3, 3, 2]


def test_gvm_prompt_without_samples():
    counts = gvm(torch.tensor([0, 1]), torch.tensor([0, 4]), torch.tensor([1.0, 1.0]), 5)
    assert counts.tolist() == [0, 5]
    assert counts.dtype == torch.int64


@given(
    rows=st.lists(st.tuples(st.integers(0, 8), st.floats(0, 10)), min_size=1, max_size=9), budget=st.integers(0, 200)
)
def test_gvm_hands_out_the_budget(rows, budget):
    counts = gvm_of([s for s, _ in rows], [norm for _, norm in rows], budget)
    assert sum(counts) == budget
    assert min(counts) >= 0


@pytest.mark.parametrize(
    ("std", "n", "width", "gain"),
    [
        (0.5, 4, 0.795612, 0.174780),  # t_3 = 3.182446: 3.182446 * .5 / 2; t_4 = 2.776445: less 2.776445 * .5 / 2.236
        (0.5, 8, 0.418010, 0.033676),
        (0.0, 4, 0.0, 0.0),
    ],
)
def test_half_width_of_a_confidence_interval(std, n, width, gain):
    assert half_width(std, n) == pytest.approx(width, abs=1e-6)
    assert half_width(std, n) - half_width(std, n + 1) == pytest.approx(gain, abs=1e-6)
    assert allocation._narrowing(n, std, 0.05) == pytest.approx(gain, abs=1e-6)


@pytest.mark.parametrize(
    ("degrees", "confidence", "quantile"),
    # tables of Student's t, two-sided
    [(1, 0.05, 12.7062), (2, 0.05, 4.30265), (10, 0.05, 2.22814), (30, 0.05, 2.04227), (7, 0.01, 3.49948)],
)
def test_student_quantiles(degrees, confidence, quantile):
    n = degrees + 1
    assert allocation._half_width(n, confidence) * math.sqrt(n) == pytest.approx(quantile, rel=1e-5)


def test_xrpo_goes_to_the_uncertain_then_to_the_least_sampled():
    stds = torch.tensor([0.5, 0.5, 0.0])
    # gains .1748 at n = 4 and .0337 at n = 8, exploration off
    assert xrpo(torch.tensor([8, 4, 4]), stds, 1, exploration=0.0).tolist() == [0, 1, 0]
    # no spread anywhere: the bonus alone goes to the least sampled, and ties to the earlier
    assert xrpo(torch.tensor([4, 2, 2]), torch.zeros(3), torch.tensor(4)).tolist() == [0, 2, 2]
    assert xrpo(torch.tensor([2, 2, 2]), torch.zeros(3), 1).tolist() == [1, 0, 0]
    # sqrt(log(1 + 12)): .1 * 1.6015 * (1/sqrt(2) - 1/sqrt(8)) = .0566 over a gain of .0337
    assert xrpo(torch.tensor([8, 4]), torch.tensor([0.5, 0.0]), 1).tolist() == [1, 0]
    assert xrpo(torch.tensor([8, 2]), torch.tensor([0.5, 0.0]), 1).tolist() == [0, 1]


def test_xrpo_samples_twice_before_it_judges():
    stds = torch.tensor([0.5, math.nan, math.nan])
    assert xrpo(torch.tensor([4, 1, 0]), stds, 3).tolist() == [0, 1, 2]


@given(
    rows=st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0.0, 0.1, 0.25, 0.5])), min_size=1, max_size=5),
    budget=st.integers(0, 20),
)
def test_xrpo_naive_loop(rows, budget):
    samples, stds = torch.tensor([n for n, _ in rows]), torch.tensor([s for _, s in rows], dtype=torch.double)
    found = xrpo(samples, stds, budget, exploration=0.2)
    n = samples.tolist()
    for _ in range(budget):
        best, chosen = -math.inf, -1
        for q, (_, std) in enumerate(rows):
            gain = half_width(std, n[q]) - half_width(std, n[q] + 1) if n[q] > 1 else math.inf
            priority = gain + 0.2 * math.sqrt(math.log(1 + sum(n))) / math.sqrt(max(n[q], 1))
            if priority > best + 1e-12:
                best, chosen = priority, q
        n[chosen] += 1
    assert int(found.sum()) == budget
    assert found.dtype == torch.int64
    assert (samples + found).tolist() == n


def test_ranges():
    one = torch.ones(1)
    for settings in ({"alpha": 0.0}, {"max_rate": 1.5}, {"min_accepted": -1.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            gvm(one, one, one, 1, **settings)
    for settings in ({"confidence": 1.0}, {"exploration": -1.0}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            xrpo(one, one, 1, **settings)
    with pytest.raises(ValueError, match="budget: -1"):
        gvm(one, one, one, -1)
    with pytest.raises(ValueError, match="budget: -1"):
        xrpo(one, one, torch.tensor(-1))


def test_harder_prompts_get_more_by_hand():
    # shares of failures 1/4, 1, 0, 3/4 of their sum 2: an eighth, a half, none and three eighths of 12
    counts = by_difficulty(torch.tensor([3, 0, 4, 1]), torch.tensor([4, 4, 4, 4]), 12)
    assert counts.tolist() == [2, 6, 0, 4]  # 1.5, 6, 0 and 4.5: the earlier one is rounded up
    assert by_difficulty(torch.tensor([2, 2]), torch.tensor([2, 2]), 3).tolist() == [2, 1]
    assert by_difficulty(torch.tensor([0, 1]), torch.tensor([0, 2]), 3).tolist() == [2, 1]

"""The laws of over-optimization are found again in points that follow them."""

from __future__ import annotations

import math

import pytest

from llmrl.overoptimization.laws import BEST_OF_N, TRAINING, fit


@pytest.mark.parametrize(
    ("law", "gain", "peak"),
    [
        (BEST_OF_N, lambda d: d * (0.8 - 0.25 * d), 1.6),  # 0.8 / (2 x 0.25)
        (TRAINING, lambda d: d * (0.8 - 0.25 * math.log(d)), math.exp(0.8 / 0.25 - 1)),
    ],
)
def test_a_law_is_found_again(law, gain, peak):
    distances = [0.5, 1.0, 2.0, 3.0]
    found = fit(law, [0.0, *distances], [0.0, *map(gain, distances)])
    assert (found.alpha, found.beta, found.explained) == pytest.approx((0.8, 0.25, 1.0))
    assert found.peak == pytest.approx(peak)
    below, above = found.gain(peak * 0.99), found.gain(peak * 1.01)
    assert found.gain(peak) > max(below, above) and found.gain(0.0) == 0.0


def test_a_gain_that_never_turns_has_no_peak():
    assert fit(BEST_OF_N, [1.0, 2.0, 3.0], [1.0, 2.1, 3.5]).peak is None


def test_points_that_a_law_misses_lower_what_it_explains():
    # gains 1, 0, 1 at 1, 2, 3: a = d, b = -d^2 have the normal equations 14 a - 36 b = 4, 36 a - 98 b = 10
    found = fit(BEST_OF_N, [1.0, 2.0, 3.0], [1.0, 0.0, 1.0])
    assert (found.alpha, found.beta) == pytest.approx((32 / 76, 4 / 76))
    missed = sum((gain - found.gain(d)) ** 2 for d, gain in ((1, 1.0), (2, 0.0), (3, 1.0)))
    assert found.explained == pytest.approx(1 - missed / (2 / 3))


def test_two_points_are_too_few():
    assert fit(TRAINING, [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]) is None

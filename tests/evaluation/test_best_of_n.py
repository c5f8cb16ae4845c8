"""The expected best of n samples against all of their subsets, and its divergence."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from llmrl.evaluation.best_of_n import best_of_n, divergence_of_best_of_n

SCORES, VALUES = [0.3, -1.0, 2.0, 0.9, 0.1], [1.0, 0.0, 0.0, 1.0, 5.0]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_it_is_the_mean_over_all_subsets(n):
    chosen = [max(subset, key=lambda i: SCORES[i]) for subset in combinations(range(5), n)]
    assert best_of_n(SCORES, VALUES, n) == pytest.approx(sum(VALUES[i] for i in chosen) / len(chosen))
    assert best_of_n(SCORES, SCORES, n) == pytest.approx(sum(SCORES[i] for i in chosen) / len(chosen))


def test_equal_scores_share_their_chance():
    # of the pairs {1, 2}, {1, 3}, {2, 3} the winners are: 3, 3 and one of 1 and 2
    assert best_of_n([0.0, 0.0, 1.0], [4.0, 8.0, 0.0], 2) == pytest.approx((0 + 0 + 6) / 3)
    assert best_of_n([1.0, 1.0, 1.0], [4.0, 8.0, 0.0], 2) == pytest.approx(4.0)


def test_the_divergence_is_that_of_the_best_of_uniform_scores():
    """The density of the best of n uniform numbers is n u^(n - 1): the mean of its logarithm, by the midpoint rule."""
    steps = 100_000
    middles = [(i + 0.5) / steps for i in range(steps)]
    kl = sum(4 * u**3 * math.log(4 * u**3) for u in middles) / steps
    assert divergence_of_best_of_n(4) == pytest.approx(kl, abs=1e-6)
    assert divergence_of_best_of_n(1) == 0.0


def test_more_than_all_samples_are_refused():
    with pytest.raises(ValueError, match="best of 6 needs at least 6 samples and n >= 1, got 5 samples"):
        best_of_n(SCORES, VALUES, 6)

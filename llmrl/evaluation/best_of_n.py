"""Best-of-n over a group of samples of one prompt: the sample that a reward prefers, and what others think of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import comb, log


def best_of_n(scores: Sequence[float], values: Sequence[float], n: int) -> float:
    """The expected value of the sample with the highest score among n, drawn without replacement from these N.

        sum_i C(i - 1, n - 1) / C(N, n) values_(i)        samples in the order of rising scores, i = 1 ... N

    Unbiased. Samples with equal scores are preferred equally. With the scores as values it is the expected highest
    score. Raises ValueError if n is not in 1..N. Source: Gao et al., arXiv 2210.10760; Coste et al., arXiv 2310.02743.
    """
    count = len(scores)
    if not 1 <= n <= count:
        raise ValueError(f"best of {n} needs at least {n} samples and n >= 1, got {count} samples")
    total, place = 0.0, 0
    for _, tied in groupby(sorted(zip(scores, values, strict=True)), key=lambda pair: pair[0]):
        level = [value for _, value in tied]
        chance = sum(comb(i - 1, n - 1) for i in range(place + 1, place + len(level) + 1)) / comb(count, n)
        total, place = total + chance * sum(level) / len(level), place + len(level)
    return total


def divergence_of_best_of_n(n: int) -> float:
    """KL(best-of-n || policy) in nats a completion, for scores that are all different; an upper bound for others.

    log n - (n - 1) / n
    """
    return log(n) - (n - 1) / n

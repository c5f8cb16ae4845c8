"""Laws of over-optimization: how much a reward gains at a distance d = sqrt(KL(policy || start)).

Source: Gao et al., Scaling Laws for Reward Model Overoptimization, arXiv 2210.10760.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Law:
    """A law gain(d) = alpha d - beta bend(d), linear in its two coefficients.

    formula: in words. peak: (alpha, beta) -> the distance of the highest gain, where beta > 0.
    """

    formula: str
    bend: Callable[[float], float]
    peak: Callable[[float, float], float]


BEST_OF_N = Law("d (alpha - beta d)", lambda d: d * d, lambda alpha, beta: alpha / (2 * beta))
TRAINING = Law("d (alpha - beta log d)", lambda d: d * math.log(d), lambda alpha, beta: math.exp(alpha / beta - 1))


@dataclass(frozen=True)
class Fit:
    """A law's coefficients, and the share of the gains' variance that the law explains."""

    law: Law
    alpha: float
    beta: float
    explained: float

    def gain(self, distance: float) -> float:
        """The gain at a distance; 0 at 0."""
        return self.alpha * distance - self.beta * self.law.bend(distance) if distance > 0 else 0.0

    @property
    def peak(self) -> float | None:
        """The distance of the highest gain; None where the law never turns down, or turns beyond all measure."""
        if self.beta <= 0 or self.alpha / self.beta > 50:
            return None
        return self.law.peak(self.alpha, self.beta)


def fit(law: Law, distances: Sequence[float], gains: Sequence[float]) -> Fit | None:
    """The law's coefficients by least squares; None with fewer than three points at a distance above 0."""
    points = [(d, gain) for d, gain in zip(distances, gains, strict=True) if d > 0]
    if len(points) < 3:
        return None
    columns = np.array([(d, -law.bend(d)) for d, _ in points])
    found = np.array([gain for _, gain in points])
    (alpha, beta), *_ = np.linalg.lstsq(columns, found, rcond=None)
    spread = float(((found - found.mean()) ** 2).sum())
    missed = float(((found - columns @ np.array([alpha, beta])) ** 2).sum())
    return Fit(law, float(alpha), float(beta), 1.0 - missed / spread if spread else 0.0)

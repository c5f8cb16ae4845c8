"""Rows for environments that need no data: a question, and the seed of the episode that it begins."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

SEED = "seed"
"""The column that an environment is reset with."""
_HALF = 31
_WHOLE = 2 * _HALF
_ODD = 0x1E3779B97F4A7C15
_MASK = 2**_WHOLE - 1


def seeds(size: int, seed: int, *, question: Annotated[str, Field(min_length=1)]) -> list[dict[str, Any]]:
    """Return rows of `question` and a seed in [0, 2^62), which no two rows of any `seed` and `size` share.

    The seeds are a permutation of the numbers 2^31 seed + row, so that neighbours are far apart. Raises ValueError for
    a seed of 2^31 or more.
    """
    if seed >= 2**_HALF:
        raise ValueError(f"seed: {seed} is not valid, expected less than 2^{_HALF}")
    return [{"question": question, SEED: _scattered((seed << _HALF) + row)} for row in range(size)]


def _scattered(number: int) -> int:
    """Map [0, 2^62) to itself: odd factors and right shifts of the halves lose nothing."""
    for _ in range(2):
        number ^= number >> _HALF
        number = number * _ODD & _MASK
    return number ^ number >> _HALF

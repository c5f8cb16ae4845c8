r"""Comparison of expressions by their values at points.

Two expressions are equal if their values agree at every point with positive values, and at every other point where no
root or logarithm of a negative number occurs. Roots of several symbols are compared at positive points alone: in
\sqrt{k/m} = \sqrt{km}/m the symbols are sizes of things. The symbols' values are fractions that depend on the
symbols' names alone, so rational expressions are compared exactly, and every other value to 48 digits, to 200 where no
symbol occurs.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from fractions import Fraction

from llmrl.rewards.answers.expressions import Expression, read
from llmrl.rewards.answers.numbers import AGREEMENT, quantity
from llmrl.rewards.answers.values import (
    DIGITS,
    MORE_DIGITS,
    Number,
    divide,
    is_real,
    mp,
    multiply,
    real,
    same,
    vanishes,
)

POSITIVE_SIZES = (1, 7, 60, 900)
SIZES = (2, 9, 300)
"""About how far from zero the points lie: those with positive values, and those with signs of their own."""

INTEGERS = (*range(1, 14), 29, 30, 97, 100)
"""The values at points for floors and ceilings, which for other numbers follow other rules."""


@functools.lru_cache(maxsize=4096)
def _value(symbol: str, point: int) -> Fraction:
    """Return the symbol's value at a point: positive at the first ones, then negative, then of either sign."""
    digest = hashlib.blake2b(f"{symbol} {point}".encode(), digest_size=4).digest()
    size = Fraction(1009 + int.from_bytes(digest[:2], "big") % 1009, 1511) * (*POSITIVE_SIZES, *SIZES)[point]
    turn = point - len(POSITIVE_SIZES)
    if turn < 0:
        return size
    bit = hashlib.blake2b(symbol.encode(), digest_size=1).digest()[0] % 2
    return -size if turn == 0 or bit == turn % 2 else size


@functools.lru_cache(maxsize=4096)
def _integer(symbol: str, point: int) -> Fraction:
    digest = hashlib.blake2b(symbol.encode(), digest_size=2).digest()
    return Fraction(INTEGERS[(point * (1 + 2 * (digest[0] % 3)) + digest[1]) % len(INTEGERS)])


def at_points(one: Expression, other: Expression) -> Iterator[tuple[Number, Number, bool]]:
    """The values of both at the points where both have one, and whether the point is positive."""
    symbols = one.symbols | other.symbols
    if one.has_steps or other.has_steps or not symbols:
        for point in range(len(INTEGERS) if symbols else 1):
            pair = _both(one, other, {symbol: _integer(symbol, point) for symbol in symbols})
            if pair is not None:
                yield *pair, True
        return
    sizes = len(symbols) > 1 and (one.has_root or other.has_root)
    for point in range(len(POSITIVE_SIZES) + (0 if sizes else len(SIZES))):
        positive = point < len(POSITIVE_SIZES)
        mp.trap_complex = not positive  # where roots of negative numbers occur, rules for roots do not hold
        try:
            pair = _both(one, other, {symbol: _value(symbol, point) for symbol in symbols})
        finally:
            mp.trap_complex = False
        if pair is not None:
            yield *pair, positive


def _both(one: Expression, other: Expression, values: dict[str, Fraction]) -> tuple[Number, Number] | None:
    try:
        return one.evaluate(values), other.evaluate(values)
    except (ArithmeticError, ValueError, TypeError, KeyError, RecursionError):  # TypeError: mpmath's comparisons
        return None


def equal_expressions(gold: str, found: str, *, scale: Number = Fraction(1)) -> bool | None:
    """Return whether gold = scale * found; None if one of them cannot be read. The texts are in normal form.

    A decimal stands for an exact number that is no decimal if both agree to one part in a million.
    """
    one, other = read(gold), read(found)
    if one is None or other is None:
        return None
    if not one.symbols and not other.symbols:
        return _equal_numbers(one, other, scale, approximately=_is_decimal(gold) != _is_decimal(found))
    compared = False
    for mine, theirs, positive in at_points(one, other):
        if (positive or _real((mine, theirs))) and not _agree(mine, multiply(theirs, scale)):
            return False
        compared = True
    return compared


def _equal_numbers(one: Expression, other: Expression, scale: Number, *, approximately: bool) -> bool:
    pair = _both(one, other, {})
    if pair is None:
        return False
    mine, theirs = pair[0], multiply(pair[1], scale)
    if approximately and _near(mine, theirs):
        return True
    if not _agree(mine, theirs):
        return False
    exact = type(mine) is Fraction and type(theirs) is Fraction
    return exact or type(scale) is not Fraction or _agree_in_more_digits(one, other, scale)


def _real(values: Iterable[Number]) -> bool:
    return all(is_real(value) for value in values)


def _agree(one: Number, other: Number) -> bool:
    return same(one, other) or (not (_is_exact(one) and _is_exact(other)) and vanishes(one) and vanishes(other))


def _is_exact(value: Number) -> bool:
    return type(value) is Fraction and value != 0


def _agree_in_more_digits(one: Expression, other: Expression, scale: Fraction) -> bool:
    """Return whether two numbers agree in more digits too: those that differ by 1e-60 do not."""
    mp.dps = MORE_DIGITS
    try:
        pair = _both(one, other, {})
        return pair is not None and _agree(pair[0], multiply(pair[1], scale))
    finally:
        mp.dps = DIGITS


def _is_decimal(text: str) -> bool:
    written = quantity(text)
    return written is not None and written.decimal


def _near(gold: Number, found: Number) -> bool:
    if type(gold) is Fraction and type(found) is Fraction:
        return False
    one, other = real(gold), real(found)
    return bool(abs(one - other) * AGREEMENT <= max(abs(one), abs(other)))


def proportional(gold: tuple[str, str], found: tuple[str, str]) -> Fraction | Number | None:
    """Return the constant c != 0 with left - right = c * (left' - right') of two equations; None if there is none."""
    one, other = _difference(gold), _difference(found)
    if one is None or other is None or one.symbols != other.symbols or not one.symbols:
        return None
    ratio: Number | None = None
    points = 0
    for mine, theirs, _ in at_points(one, other):
        points += 1
        if vanishes(mine) or vanishes(theirs):
            return None
        found_ratio = divide(mine, theirs)
        if ratio is not None and not same(ratio, found_ratio):
            return None
        ratio = found_ratio
    return ratio if points > 1 else None


def _difference(sides: tuple[str, str]) -> Expression | None:
    return read(f"({sides[0]})-({sides[1]})")

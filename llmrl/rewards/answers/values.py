"""Numbers of expressions: exact fractions while they are short, else real or complex numbers of many digits.

The arithmetic of mpmath takes over where a result is no fraction or would be too long. A result whose size alone would
take too long raises TooLargeError at once, before it is computed.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from mpmath import MPContext

DIGITS = 60
MORE_DIGITS = 220
MAX_BITS = 60_000
"""The most bits of an exact number; a number with more bits in front of or behind its point is refused."""

mp: Any = MPContext()
mp.dps = DIGITS

Number = Any
"""A Fraction, or a number of `mp`."""


class TooLargeError(ArithmeticError):
    """The number is too large, or too small, to be computed."""


def real(value: Number) -> Any:
    """Return the number as one of `mp`, without an imaginary part of zero."""
    if type(value) is Fraction:
        return mp.mpf(value.numerator) / value.denominator
    if isinstance(value, mp.mpc) and value.imag == 0:
        return value.real
    return value


def add(one: Number, other: Number) -> Number:
    """one + other"""
    if type(one) is Fraction and type(other) is Fraction:
        return one + other
    return real(one) + real(other)


def multiply(one: Number, other: Number) -> Number:
    """one * other"""
    if type(one) is Fraction and type(other) is Fraction:
        return _bounded(one * other)
    return _bounded(real(one) * real(other))


def divide(one: Number, other: Number) -> Number:
    """Raises ZeroDivisionError."""
    if type(one) is Fraction and type(other) is Fraction:
        return _bounded(one / other)
    return _bounded(real(one) / real(other))


def power(base: Number, exponent: Number) -> Number:
    """base ** exponent; an odd root of a negative number is negative, as in (-8)^{1/3} = -2."""
    if type(exponent) is Fraction:
        if exponent.denominator == 1:
            return _integer_power(base, exponent.numerator)
        if type(base) is Fraction and base < 0 and exponent.denominator % 2:
            root = power(-base, exponent)
            return root if exponent.numerator % 2 == 0 else multiply(Fraction(-1), root)
    base, exponent = real(base), real(exponent)
    if base == 0:
        if mp.re(exponent) <= 0:
            raise ZeroDivisionError("a power of zero")
        return Fraction(0)
    _check_exponent(mp.log(abs(base)) * mp.re(exponent) if mp.isfinite(base) else 0)
    return _bounded(mp.power(base, exponent))


def _integer_power(base: Number, exponent: int) -> Number:
    if type(base) is Fraction:
        if base == 0 and exponent <= 0:
            raise ZeroDivisionError("a power of zero")
        if abs(base) == 1:
            return base if exponent % 2 else abs(base)
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(exponent) * bits > MAX_BITS:
            raise TooLargeError(f"a power of {exponent}")
        return base**exponent
    if abs(exponent) > MAX_BITS:
        raise TooLargeError(f"a power of {exponent}")
    return _bounded(mp.power(base, exponent))


def exponential(value: Number) -> Number:
    """e ** value"""
    value = real(value)
    _check_exponent(mp.re(value))
    return mp.exp(value)


def factorial(value: Number) -> Number:
    """value!, by the gamma function where the value is no integer; raises ZeroDivisionError for a negative integer."""
    if type(value) is Fraction and value.denominator == 1:
        count = value.numerator
        if count < 0:
            raise ZeroDivisionError("the factorial of a negative number")
        if count * max(1, count.bit_length()) > MAX_BITS:
            raise TooLargeError(f"{count}!")
        return Fraction(math.factorial(count))
    value = real(value)
    _check_exponent(abs(value) * 64)
    return mp.gamma(value + 1)


def binomial(total: Number, chosen: Number) -> Number:
    """total choose chosen, by the gamma function where one of them is no integer."""
    if type(total) is Fraction and type(chosen) is Fraction and total.denominator == chosen.denominator == 1:
        most, taken = total.numerator, chosen.numerator
        if 0 <= taken <= most:
            taken = min(taken, most - taken)
            if taken * most.bit_length() > MAX_BITS // 8:
                raise TooLargeError("a binomial coefficient")
            return Fraction(math.comb(most, taken))
        return Fraction(0)
    return mp.binomial(real(total), real(chosen))


def whole(value: Number) -> int:
    """Return the integer that the number is; raises ArithmeticError for any other number."""
    if type(value) is Fraction and value.denominator == 1:
        return value.numerator
    found = real(value)
    if isinstance(found, mp.mpf) and mp.isfinite(found) and abs(found) < 10**15 and mp.isint(found):
        return int(found)
    raise ArithmeticError("not an integer")


def ordered(value: Number) -> Any:
    """Return the number if it is real, so that it can be compared; raises ArithmeticError if it is not."""
    found = value if type(value) is Fraction else real(value)
    if isinstance(found, mp.mpc):
        raise ArithmeticError("not a real number")
    return found


def is_real(value: Number) -> bool:
    """Return whether the number has no imaginary part."""
    return type(value) is Fraction or not isinstance(real(value), mp.mpc)


def _check_exponent(size: Any) -> None:
    if mp.isfinite(size) and abs(size) > MAX_BITS:
        raise TooLargeError("a number of too many digits")


def _bounded(value: Number) -> Number:
    if type(value) is Fraction:
        if value.numerator.bit_length() + value.denominator.bit_length() > 2 * MAX_BITS:
            raise TooLargeError("a number of too many digits")
        return value
    size = mp.mag(value)
    if mp.isfinite(size) and abs(size) > MAX_BITS:
        raise TooLargeError("a number of too many digits")
    return value


def same(one: Number, other: Number) -> bool:
    """Return whether two numbers agree in all digits that are computed; exact numbers must be equal."""
    if type(one) is Fraction and type(other) is Fraction:
        return one == other
    one, other = real(one), real(other)
    if mp.isnan(one) or mp.isnan(other):
        return False
    if mp.isinf(one) or mp.isinf(other):
        return bool(one == other)
    return bool(abs(one - other) <= max(abs(one), abs(other)) * mp.mpf(10) ** (12 - mp.dps))


def vanishes(value: Number) -> bool:
    """Return whether a number is too small for its digits to mean anything, as a computed sin(pi) is."""
    return abs(real(value)) < mp.mpf(10) ** (20 - mp.dps)

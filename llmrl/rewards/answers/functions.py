"""The functions, constants and operators that expressions may name."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from llmrl.rewards.answers.values import Number, divide, exponential, mp, ordered, power, real, whole

RELATIONS = frozenset({
    r"\le", r"\ge", r"\ne", r"\in", r"\approx", r"\equiv", r"\cup", r"\cap", r"\setminus", r"\mid", r"\mod", r"\pmod",
    r"\bmod", r"\to",
})  # fmt: skip
LARGE = frozenset(("\\sum", "\\prod"))
DERIVATIVE = re.compile(
    r"\{ (?:d|\\partial)(?: \^ (?:\{ )?(?P<order>\d)(?: \})?)? ?(?P<function>\w+(?: _ \w)?)? \} "
    r"\{ (?:d|\\partial) (?P<variable>\w+)(?: \^ (?:\{ )?\d(?: \})?)? \}"
)
INVERSES = {name: f"arc{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")}
CONSTANTS: dict[str, Callable[[Any], Number]] = {"e": lambda values: +mp.e, "i": lambda values: mp.mpc(0, 1)}


def absolute(value: Number) -> Number:
    """|value|"""
    return abs(value) if type(value) is Fraction else abs(real(value))


def floor(value: Number) -> Number:
    """The largest integer that is not above the number; raises ArithmeticError for a number that is not real."""
    return Fraction(int(mp.floor(ordered(value)))) if type(value) is not Fraction else Fraction(math.floor(value))


def ceiling(value: Number) -> Number:
    """The smallest integer that is not below the number; raises ArithmeticError for a number that is not real."""
    return -floor(-value)


def root(value: Number, degree: Number) -> Number:
    """The principal root, exact where the number is a power of that degree."""
    if type(value) is Fraction and degree == 2 and value >= 0:
        top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if top * top == value.numerator and bottom * bottom == value.denominator:
            return Fraction(top, bottom)
        return mp.sqrt(real(value))
    if type(degree) is Fraction and degree == 2:
        return mp.sqrt(real(value))
    return power(value, divide(Fraction(1), degree))


def logarithm(value: Number, base: Number) -> Number:
    """The logarithm to a base; raises ZeroDivisionError for one of zero and for the base 1."""
    return divide(mp.log(_argument(value)), mp.log(_argument(base)))


def _argument(value: Number) -> Any:
    found = real(value)
    if found == 0:
        raise ZeroDivisionError("a logarithm of zero")
    return found


def _of(function: Callable[[Any], Any]) -> Callable[[Number], Number]:
    """Return the function for any Number; an angle that is too large for its digits to count is refused."""

    def applied(value: Number) -> Number:
        found = real(value)
        if mp.isfinite(found) and mp.mag(found) > 512:
            raise ArithmeticError("too large an argument")
        return real(function(found))

    return applied


def _integers(function: Callable[..., int]) -> Callable[..., Number]:
    return lambda *values: Fraction(function(*(whole(value) for value in values)))


def _extreme(choose: Callable[..., Any]) -> Callable[..., Number]:
    return lambda *values: choose(values, key=lambda value: real(ordered(value)))


OF_SEVERAL: dict[str, Callable[..., Number]] = {
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
    "min": _extreme(min),
    "max": _extreme(max),
}
OF_ONE: dict[str, Callable[[Number], Number]] = {
    **{
        name: _of(getattr(mp, name))
        for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")
    },
    **{f"arc{name}": _of(getattr(mp, f"a{name}")) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    **{f"arc{name}": _of(getattr(mp, f"a{name}")) for name in ("sinh", "cosh", "tanh")},
    "ln": lambda value: mp.log(_argument(value)),
    "log": lambda value: mp.log(_argument(value)),
    "lg": functools.partial(lambda base, value: logarithm(value, base), Fraction(10)),
    "exp": exponential,
    "abs": absolute,
    "floor": floor,
    "ceil": ceiling,
    "cbrt": lambda value: power(value, Fraction(1, 3)),
}

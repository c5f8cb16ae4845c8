"""Functions of the values of symbols, and their combination into larger ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

from llmrl.rewards.answers.values import Number, multiply

Values = Mapping[str, Number]
"""The value of each symbol."""

Evaluate = Callable[[Values], Number]


def constant(value: Number) -> Evaluate:
    """Return the function that is this value everywhere."""
    return lambda values: value


def one(function: Callable[[Number], Number], inner: Evaluate) -> Evaluate:
    """Return function(inner)."""
    return lambda values: function(inner(values))


def two(function: Callable[[Number, Number], Number], left: Evaluate, right: Evaluate) -> Evaluate:
    """Return function(left, right)."""
    return lambda values: function(left(values), right(values))


def several(function: Callable[..., Number], arguments: list[Evaluate]) -> Evaluate:
    """Return the function of all arguments."""
    return lambda values: function(*(argument(values) for argument in arguments))


def minus(inner: Evaluate) -> Evaluate:
    """Return -inner."""
    return lambda values: multiply(Fraction(-1), inner(values))

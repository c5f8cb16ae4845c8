r"""Expressions: read from LaTeX or plain text into functions of the values of their symbols.

    sum       product + product - ...
    product   factor * factor, factor / factor, or factors side by side
    factor    -factor, or base ^ factor
    base      number, symbol, (sum), |sum|, f(x), \frac{}{}, \sqrt[]{}, \binom{}{}, \sin^2 x, \sum_{k=1}^{4} k, x_1, n!

Symbols keep their case. A subscript belongs to its symbol, and a number with a subscript is written in that base.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from llmrl.rewards.answers.combining import Evaluate, constant
from llmrl.rewards.answers.numbers import quantity
from llmrl.rewards.answers.parser import Parser
from llmrl.rewards.answers.tokens import UnreadableError, tokens

MAX_CHARACTERS = 600


@dataclass(frozen=True)
class Expression:
    """An expression. evaluate(values) returns its number where each symbol has that value."""

    evaluate: Evaluate
    symbols: frozenset[str]
    has_root: bool = False
    has_steps: bool = False


@functools.lru_cache(maxsize=8192)
def read(text: str) -> Expression | None:
    """Return the expression that a text in normal form spells; None if it is no expression that can be read."""
    if len(text) > MAX_CHARACTERS:
        return None
    exact = quantity(text)
    if exact and not exact.unit and not exact.percent:
        return Expression(constant(exact.value), frozenset())
    try:
        parser = Parser(tokens(text))
        evaluate = parser.sum()
        if parser.place < len(parser.tokens):
            return None
    except (UnreadableError, RecursionError, IndexError, ValueError, ArithmeticError):
        return None
    return Expression(evaluate, frozenset(parser.symbols), parser.has_root, parser.has_steps)

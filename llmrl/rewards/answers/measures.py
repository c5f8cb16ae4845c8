"""Expressions with a unit behind them, and the conversion of their units."""

from __future__ import annotations

import re
from fractions import Fraction

from llmrl.rewards.answers.expressions import read
from llmrl.rewards.answers.units import DEGREE, RADIAN, Unit, read_unit
from llmrl.rewards.answers.values import Number, mp
from llmrl.rewards.answers.words import is_text

_UNIT_BEHIND = re.compile(
    r"(?P<body>.*[\w)}\]!])\s*\\unit\{(?P<unit>[^{}]*(?:\{[^{}]*\}[^{}]*)*)\}(?P<more>.*)", re.DOTALL
)
_BLANK = re.compile(r"(?<=[\w)}\]!])\s+(?=[a-zA-Z]{2})")


def without_unit(text: str) -> tuple[str, Unit | None]:
    """Return an expression and the unit behind it; None in its place if there is none."""
    marked = _UNIT_BEHIND.fullmatch(text)
    if marked:
        return marked["body"], read_unit(f"{marked['unit']}{marked['more'].replace(chr(92) + 'unit', '')}")
    if text.endswith(r"^\circ"):
        return text.removesuffix(r"^\circ").strip(), DEGREE
    for blank in _BLANK.finditer(text):
        body, unit = text[: blank.start()], read_unit(text[blank.end() :])
        if unit and not is_text(body) and read(body):
            return body, unit
    return text, None


def scale_of(gold: Unit, found: Unit) -> Number | None:
    """Return how many of the gold's units one of the found units is; None for units that do not convert."""
    if {gold, found} == {DEGREE, RADIAN}:
        return mp.pi / 180 if found == DEGREE else 180 / mp.pi
    if not gold.converts_to(found):
        return None
    return Fraction(1) if None in (gold.measures, found.measures) else found.size / gold.size

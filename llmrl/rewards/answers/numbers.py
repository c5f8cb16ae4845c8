r"""Exact numbers as they are written: "$1,200", "45%", "3 1/2 cm", "1.5 \times 10^{3}", "2 million", "0.\dot{3}"."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

from llmrl.rewards.answers.units import Unit, read_unit

MAX_DIGITS = 4000
MAX_EXPONENT = 4000
AGREEMENT = 1_000_000
"""A decimal stands for a number that is no decimal if both agree to one part in so many."""


@dataclass(frozen=True)
class Quantity:
    """An exact number as it was written; decimal: whether it has a decimal point."""

    value: Fraction
    percent: bool = False
    unit: Unit | None = None
    decimal: bool = False


_INTEGER = r"\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?![\d/])|\d+"
_DECIMAL = rf"(?:(?:{_INTEGER})(?:\.\d*)?|\.\d+)"
_WORDS = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "lakh": 10**5, "crore": 10**7,
}  # fmt: skip
_QUANTITY = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<currency>\\?[$€£¥₹])?\s*(?P<inner_sign>[-+]?)\s*"
    rf"(?:(?P<whole>\d+)\s*(?P<mixed>\\frac\s*\{{\s*\d+\s*\}}\s*\{{\s*\d+\s*\}})"
    r"|(?P<whole_slash>\d+)[ ](?P<mixed_slash>\d+\s*/\s*\d+)"
    rf"|\\frac\s*\{{\s*(?P<top>[-+]?\s*{_DECIMAL})\s*\}}\s*\{{\s*(?P<bottom>[-+]?\s*{_DECIMAL})\s*\}}"
    rf"|(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})"
    r"|(?P<head>\d*\.\d*)(?:\\overline\s*\{\s*(?P<period>\d+)\s*\}|\\bar\s*\{\s*(?P<bar>\d+)\s*\}"
    r"|\((?P<round>\d+)\)|\\dot\s*\{?\s*(?P<dot>\d)\s*\}?(?:(?P<dotted>\d*)\\dot\s*\{?\s*(?P<last>\d)\s*\}?)?)"
    rf"|(?P<decimal>{_DECIMAL}))"
    r"(?:[eE](?P<e>[-+]?\d{1,4})(?!\w)|\s*(?:\\times|\\cdot|\*|[xX])\s*10\s*\^\s*"
    r"(?:\{\s*(?P<braced>[-+]?\d{1,4})\s*\}|\(\s*(?P<round_power>[-+]?\d{1,4})\s*\)|(?P<bare>[-+]?\d{1,4})(?!\d)))?"
    rf"(?:\s*(?P<word>{'|'.join(_WORDS)})\b)?"
    r"\s*(?P<percent>\\?%|percent\b|per\s+cent\b)?"
    r"\s*(?P<unit>.*)",
    re.DOTALL,
)
_POWER_OF_TEN = re.compile(
    r"(?P<sign>[-+]?)\s*10\s*\^\s*(?:\{\s*([-+]?\d{1,4})\s*\}|\(\s*([-+]?\d{1,4})\s*\)|([-+]?\d{1,4}))"
)
_GLUED_LETTER = re.compile(r"[\d)}][a-zA-Z]\Z")
_LONE_LETTER = re.compile(r"[a-zA-Z]\Z")
_VARIABLES = frozenset("nNjwvakKdcChHlbxyzpqrtu")
"""Letters that are a variable rather than a unit behind a number and a space."""


@functools.lru_cache(maxsize=8192)
def quantity(text: str, *, letters: bool = False) -> Quantity | None:
    """Return the exact number that `text`, in normal form, spells; None if it spells no number.

    letters: whether a letter that is glued to the number, as in "8m", is its unit; otherwise "8m" is 8 times m.
    """
    if len(text) > MAX_DIGITS:
        return None
    power = _POWER_OF_TEN.fullmatch(text)
    if power is not None:
        value = Fraction(10) ** int(power[2] or power[3] or power[4]) if _bounded(power) else None
        return None if value is None else Quantity(-value if power["sign"] == "-" else value)
    match = _QUANTITY.fullmatch(text)
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    words = match["unit"].strip() or (match["currency"] or "").lstrip("\\")
    unit = _unit_of(words, text, letters) if words else None
    if words and unit is None:
        return None
    try:
        value = _magnitude(match) * _WORDS.get(match["word"] or "", 1)
    except (ValueError, ZeroDivisionError):
        return None
    exponent = int(match["e"] or match["braced"] or match["round_power"] or match["bare"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    value *= Fraction(10) ** exponent
    negative = "-" in (match["sign"], match["inner_sign"])
    decimal = "." in text[: match.start("unit")] and match["head"] is None
    return Quantity(-value if negative else value, bool(match["percent"]), unit, decimal)


def _bounded(power: re.Match[str]) -> bool:
    return abs(int(power[2] or power[3] or power[4])) <= MAX_EXPONENT


def _unit_of(words: str, text: str, letters: bool) -> Unit | None:
    """Return the unit that follows a number; the x y of "4 x y", "million" and a glued letter are no units."""
    if "\\unit{" in words:
        words = words.replace("\\unit", " ").replace("{", " ").replace("}", " ").replace("^ ", "^").strip()
        return read_unit(" ".join(words.split()))
    unit = read_unit(words)
    if unit is None or words.startswith(("^\\circ", "°", "\\circ")):
        return unit
    if _LONE_LETTER.match(words):
        glued = bool(_GLUED_LETTER.search(text))
        return unit if unit.measures and (letters if glued else letters or words not in _VARIABLES) else None
    alone = [word for word in re.findall(r"[^\W\d_]+", words) if len(word) <= 2]
    glued = not text[: -len(words)].endswith(" ")
    if all(read_unit(word) is not None and (read_unit(word) or unit).measures for word in alone) and not (
        glued and unit.measures is None
    ):
        return unit
    return None


def _magnitude(match: re.Match[str]) -> Fraction:
    if match["whole"]:
        top, bottom = re.findall(r"\d+", match["mixed"])
        return int(match["whole"]) + Fraction(int(top), int(bottom))
    if match["whole_slash"]:
        top, bottom = match["mixed_slash"].split("/")
        return int(match["whole_slash"]) + Fraction(int(top), int(bottom))
    if match["top"]:
        return _decimal(match["top"]) / _decimal(match["bottom"])
    if match["over"]:
        return _decimal(match["over"]) / _decimal(match["under"])
    if match["head"]:
        period = match["period"] or match["bar"] or match["round"]
        period = period or match["dot"] + (match["dotted"] or "") + (match["last"] or "")
        return _repeating(match["head"], period)
    return _decimal(match["decimal"])


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").rstrip("."))


def _repeating(head: str, period: str) -> Fraction:
    """Return the number whose decimals begin with `head` and go on with `period` for ever: 0.1(6) = 1/6."""
    whole, _, tail = head.partition(".")
    start = Fraction(int(whole or 0)) + (Fraction(int(tail), 10 ** len(tail)) if tail else 0)
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(tail))


def terminates(value: Fraction) -> bool:
    """Return whether a finite decimal equals the number."""
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


def close(gold: Quantity, found: Quantity, scale: Fraction) -> bool:
    """Return whether gold = scale * found, or one is a decimal that approximates the other, as 0.333333 does 1/3."""
    one, other = gold.value, found.value * scale
    if one == other or gold.decimal == found.decimal or terminates(other if gold.decimal else one):
        return one == other
    return abs(one - other) * AGREEMENT <= max(abs(one), abs(other))

r"""Units of measurement: what a unit's text measures, and how many SI units it is.

"km/h" measures length / time and is 1000/3600 of a metre per second, so 36 km/h = 10 m/s; a newton is kg m/s^2. Words
that are no units of the tables, as in "5 apples", measure nothing known: they equal the same words, and "square units"
equals any unit.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

_BASES = frozenset({
    "m", "kg", "s", "A", "K", "mol", "dollar", "euro", "month", "celsius", "fahrenheit", "degree", "rupee", "yen",
    "sterling", "am", "pm",
})  # fmt: skip
_SYMBOLS = {  # symbols keep their case, and those of _PREFIXED take prefixes
    "g": (Fraction(1, 1000), "kg"), "L": (Fraction(1, 1000), "m^3"), "l": (Fraction(1, 1000), "m^3"), "Hz": (1, "s^-1"),
    "N": (1, "kg m s^-2"), "J": (1, "kg m^2 s^-2"), "W": (1, "kg m^2 s^-3"), "Pa": (1, "kg m^-1 s^-2"),
    "V": (1, "kg m^2 s^-3 A^-1"), "C": (1, "A s"), "F": (1, "kg^-1 m^-2 s^4 A^2"), "T": (1, "kg s^-2 A^-1"),
    "Wb": (1, "kg m^2 s^-2 A^-1"), "H": (1, "kg m^2 s^-2 A^-2"), "Ω": (1, "kg m^2 s^-3 A^-2"), "M": (1000, "mol m^-3"),
    "eV": (Fraction("1.602176634e-19"), "kg m^2 s^-2"),
}  # fmt: skip
_PREFIXED = frozenset(("m", "s", "A", "K", "mol", *_SYMBOLS)) - {"M"}
_PREFIXES = {
    "T": 12, "G": 9, "M": 6, "k": 3, "d": -1, "c": -2, "m": -3, "µ": -6, "μ": -6, "u": -6, "n": -9, "p": -12, "f": -15,
}  # fmt: skip
_LONG_PREFIXES = {
    "tera": 12, "giga": 9, "mega": 6, "kilo": 3, "deci": -1, "centi": -2, "milli": -3, "micro": -6,
    "nano": -9, "pico": -12,
}  # fmt: skip
_WORDS = {  # names in lower case, in the terms of the units above
    "meter metre": (1, "m"), "gram gramme gm": (1, "g"), "kilo": (1, "kg"), "liter litre": (1, "L"),
    "second sec": (1, "s"), "ampere amp": (1, "A"), "kelvin": (1, "K"), "mole": (1, "mol"), "hertz": (1, "Hz"),
    "newton": (1, "N"), "joule": (1, "J"), "watt": (1, "W"), "pascal": (1, "Pa"), "volt": (1, "V"), "coulomb": (1, "C"),
    "farad": (1, "F"), "tesla": (1, "T"), "weber": (1, "Wb"), "henry": (1, "H"), "ohm": (1, "Ω"),
    "electronvolt": (1, "eV"), "inch inche in": (Fraction("0.0254"), "m"), "foot feet ft": (Fraction("0.3048"), "m"),
    "yard yd": (Fraction("0.9144"), "m"), "mile mi": (Fraction("1609.344"), "m"), "tonne": (1000, "kg"),
    "pound lb": (Fraction("0.45359237"), "kg"), "ounce oz": (Fraction("0.028349523125"), "kg"),
    "gallon gal": (Fraction("0.003785411784"), "m^3"), "quart qt": (Fraction("0.000946352946"), "m^3"),
    "pint pt": (Fraction("0.000473176473"), "m^3"), "cup": (Fraction("0.0002365882365"), "m^3"),
    "tablespoon tbsp": (Fraction("0.00001478676478125"), "m^3"),
    "teaspoon tsp": (Fraction("0.00000492892159375"), "m^3"),
    "cc": (Fraction("0.000001"), "m^3"), "acre": (Fraction("4046.8564224"), "m^2"), "hectare ha": (10_000, "m^2"),
    "minute min": (60, "s"), "hour hr h": (3600, "s"), "day d": (86400, "s"), "week wk": (604800, "s"),
    "month mo": (1, "month"), "year yr": (12, "month"), "decade": (120, "month"), "century centurie": (1200, "month"),
    "dollar usd buck $": (1, "dollar"), "cent ¢": (Fraction("0.01"), "dollar"), "euro eur €": (1, "euro"),
    "gbp £": (1, "sterling"), "rupee inr rs ₹": (1, "rupee"), "yen yuan rmb ¥": (1, "yen"),
    "degree deg °": (1, "degree"), "radian rad": (1, "radian"), "celsius °c": (1, "celsius"),
    "fahrenheit °f": (1, "fahrenheit"), "psi": (Fraction("6894.757"), "Pa"), "atm atmosphere": (101325, "Pa"),
    "bar": (100_000, "Pa"), "calorie cal": (Fraction("4.184"), "J"), "mph": (Fraction("0.44704"), "m s^-1"),
    "kmh kph kmph": (Fraction(5, 18), "m s^-1"), "mps": (1, "m s^-1"), "fps": (Fraction("0.3048"), "m s^-1"),
    "am a.m": (1, "am"), "pm p.m": (1, "pm"),
}  # fmt: skip
_NAMES = {name: meaning for names, meaning in _WORDS.items() for name in names.split()}
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
GENERIC = frozenset({"unit", "square unit", "cubic unit", "sq unit", "cu unit"})

_PIECE = re.compile(
    r"(?P<unit>\\?[$€£¥₹¢]|\^?\s*\\circ\s*[CF]?(?![a-z])|°[CF]?|\\(?:Omega|mu\s*[a-zA-Z]{1,3})(?![a-zA-Z])"
    r"|[^\W\d_][^\W\d_'\u2019]*(?:\.[a-zA-Z])?\.?)"
    r"(?:\s*\^\s*\{?\s*(?P<power>-?\d)\s*\}?|(?P<glued>(?<=[mt])[23](?!\d)))?"
)
_JOIN = re.compile(r"\s*(?P<over>/|\bper\b|\ban?\b(?=\s\w{3}))\s*|\s*(?:\\cdot|\*|-|\\times)\s*|\s+", re.IGNORECASE)
_NO_UNIT = re.compile(
    r"(?i)\b(?:percent|or|and|to|not|plus|minus|times|over|mod|pi|hundred|thousand|million|billion|trillion|dozen|if"
    r"|then|one|two|three|four|five|six|seven|eight|nine|ten|maybe|perhaps|half|third|quarter|factorial|infinity|inf"
    r"|sqrt|choose|is|are|where|for|all|with|since|because|true|false|yes|no|none|undefined|answer|sin|cos|tan|ln|log"
    r"|exp)\b"
)
MAX_CHARACTERS = 60


@dataclass(frozen=True)
class Unit:
    """A unit. measures: the powers of the base units, None for words of no known unit; size: in these base units."""

    measures: frozenset[tuple[str, int]] | None
    size: Fraction = Fraction(1)
    words: str = ""

    def converts_to(self, other: Unit) -> bool:
        """Return whether both measure the same; words of no known unit must be the same, or "units"."""
        if self.measures is not None and other.measures is not None:
            return self.measures == other.measures
        return self.words in GENERIC or other.words in GENERIC or self == other


DEGREE = Unit(frozenset({("degree", 1)}))
RADIAN = Unit(frozenset({("radian", 1)}))


@functools.lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    """Return the unit that the words spell; None for words that cannot stand for a unit, such as "or" and "million"."""
    text = text.strip().rstrip(".") if len(text) > 4 else text.strip()
    if not text or len(text) > MAX_CHARACTERS or _NO_UNIT.search(text):
        return None
    powers: Counter[str] = Counter()
    size, known, place, sign, pending = Fraction(1), 0, 0, 1, 1
    last: dict[str, int] = {}
    last_size = Fraction(1)
    while place < len(text):
        piece = _PIECE.match(text, place)
        if piece is None:
            return None
        word, place = piece["unit"], piece.end()
        power = int(piece["power"] or piece["glued"] or 1) * sign * pending
        bare = word.lower().rstrip(".")
        if bare in ("square", "sq", "cubic", "cu"):
            pending = _POWERS[bare]
        elif bare in ("squared", "cubed") and known:
            _add(powers, last, power * (_POWERS[bare] - 1))
            size *= last_size ** (power * (_POWERS[bare] - 1))
        else:
            pending, found = 1, _simple(word)
            if found is not None:
                known += 1
                last, last_size = found[0], found[1]
                _add(powers, last, power)
                size *= last_size**power
        join = _JOIN.match(text, place)
        if place < len(text):
            if join is None:
                return None
            place = join.end()
            sign = -1 if join["over"] else sign
    if not known:
        return Unit(None, words=" ".join(word.removesuffix("s") for word in text.lower().split()))
    return Unit(frozenset((name, power) for name, power in powers.items() if power), size)


def _add(powers: Counter[str], measures: dict[str, int], times: int) -> None:
    for name, power in measures.items():
        powers[name] += power * times


@functools.lru_cache(maxsize=1024)
def _simple(word: str) -> tuple[dict[str, int], Fraction] | None:
    """Return what one word measures and its size; None for a word that is no unit."""
    bare = word.lstrip("\\^ ").replace("Omega", "Ω").replace(" ", "").rstrip(".")
    bare = (
        bare.replace("circ", "°") if "circ" in bare else re.sub(r"^mu(?=[a-zA-Z])", "µ", bare) if "\\" in word else bare
    )
    symbol = _symbol(bare)
    if symbol is not None:
        return symbol
    lower = bare.lower()
    for name in (lower, lower.removesuffix("s") if len(lower) > 2 else lower):
        if name in _NAMES:
            return _defined(*_NAMES[name])
        for prefix, exponent in _LONG_PREFIXES.items():
            if name.startswith(prefix) and name[len(prefix) :] in _NAMES:
                measures, size = _defined(*_NAMES[name[len(prefix) :]])
                return measures, size * Fraction(10) ** exponent
    return _symbol(lower.removesuffix("s")) if len(lower) > 2 else None


def _symbol(bare: str) -> tuple[dict[str, int], Fraction] | None:
    """Return what a symbol measures: km, mA, kHz; None for a text that is no symbol."""
    if bare in _BASES:
        return {bare: 1}, Fraction(1)
    if bare in _SYMBOLS:
        return _defined(*_SYMBOLS[bare])
    if len(bare) > 1 and bare[0] in _PREFIXES and bare[1:] in _PREFIXED:
        measures, size = ({bare[1:]: 1}, Fraction(1)) if bare[1:] in _BASES else _defined(*_SYMBOLS[bare[1:]])
        return measures, size * Fraction(10) ** _PREFIXES[bare[0]]
    return None


def _defined(size: Fraction | int, definition: str) -> tuple[dict[str, int], Fraction]:
    """Return the powers of base units of a definition such as "kg m s^-2", and its size in these."""
    powers: Counter[str] = Counter()
    total = Fraction(size)
    for part in definition.split():
        name, _, power = part.partition("^")
        exponent = int(power or 1)
        if name in _SYMBOLS:
            measures, one = _defined(*_SYMBOLS[name])
            _add(powers, measures, exponent)
            total *= one**exponent
        else:
            powers[name] += exponent
    return dict(powers), total

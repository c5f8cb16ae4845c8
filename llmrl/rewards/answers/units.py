r"""Units of measurement: what a unit's text measures, and how many SI units it is.

"km/h" measures length / time and is 1000/3600 of a metre per second, so 36 km/h = 10 m/s. A word that is no unit of the
table, as in "5 apples" or "9 square units", measures nothing known and equals every other such word.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

_TABLE: tuple[tuple[str, str, str], ...] = (
    # what it measures, its size, its names
    ("length", "1/1000", "mm millimeter millimetre"),
    ("length", "1/100", "cm centimeter centimetre"),
    ("length", "1/10", "dm decimeter decimetre"),
    ("length", "1", "m meter metre"),
    ("length", "1000", "km kilometer kilometre"),
    ("length", "127/5000", "in inch inche"),
    ("length", "381/1250", "ft foot feet"),
    ("length", "1143/1250", "yd yard"),
    ("length", "201168/125", "mi mile"),
    ("mass", "1/1000000", "mg milligram"),
    ("mass", "1/1000", "g gram gm gramme"),
    ("mass", "1", "kg kilogram kilo"),
    ("mass", "1000", "tonne"),
    ("mass", "45359237/100000000", "lb pound"),
    ("mass", "45359237/1600000000", "oz ounce"),
    ("volume", "1/1000000", "ml milliliter millilitre"),
    ("volume", "1/1000", "l liter litre"),
    ("volume", "473176473/125000000000", "gallon gal"),
    ("time", "1/1000", "ms millisecond"),
    ("time", "1", "s sec second"),
    ("time", "60", "min minute"),
    ("time", "3600", "h hr hour"),
    ("time", "86400", "d day"),
    ("time", "604800", "wk week"),
    ("months", "1", "month mo"),
    ("months", "12", "yr year"),
    ("dollars", "1", "$ dollar usd buck"),
    ("dollars", "1/100", "¢ cent"),
    ("euros", "1", "€ euro eur"),
    ("pounds sterling", "1", "£ gbp"),
    ("rupees", "1", "₹ rupee rs inr"),
    ("yen", "1", "¥ yen yuan rmb"),
    ("degrees", "1", "° deg degree"),
    ("radians", "1", "rad radian"),
    ("temperature", "1", "k kelvin"),
    ("celsius", "1", "celsius °c"),
    ("fahrenheit", "1", "fahrenheit °f"),
    ("force", "1", "n newton"),
    ("energy", "1", "j joule"),
    ("energy", "1000", "kj kilojoule"),
    ("power", "1", "w watt"),
    ("power", "1000", "kw kilowatt"),
    ("voltage", "1", "v volt"),
    ("current", "1", "a amp ampere"),
    ("resistance", "1", "ohm"),
    ("frequency", "1", "hz hertz"),
    ("amount", "1", "mol mole"),
    ("pressure", "1", "pa pascal"),
    ("pressure", "1000", "kpa kilopascal"),
    ("pressure", "101325", "atm atmosphere"),
    ("pressure", "6894757/1000", "psi"),
    ("half of the day", "1", "am a.m"),
    ("other half of the day", "1", "pm p.m"),
)
_NAMES = {name: (measures, Fraction(size)) for measures, size, names in _TABLE for name in names.split()}
_BY_DEFINITION = {  # units that are products of others, in the terms of the table
    "mph": "mile/hour", "kmh": "km/hour", "kph": "km/hour", "mps": "m/s", "fps": "foot/second", "kmph": "km/hour",
}  # fmt: skip
_MADE_OF = {"volume": {"length": 3}}
_WORDS_OF_POWER = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}

_PIECE = re.compile(
    r"(?P<unit>\\?[$€£¥₹¢]|\^?\s*\\circ\s*[CF]?|°[CF]?|\\?[^\W\d_][^\W\d_'\u2019-]*(?:\.[a-zA-Z])?\.?)"
    r"(?:\s*\^\s*\{?\s*(?P<power>-?\d)\s*\}?|(?P<glued>(?<=[mt])[23](?!\d)))?"
)
_JOIN = re.compile(r"\s*(?P<over>/|\bper\b|\ba\b(?=\s\w{3}))\s*|\s*(?:\\cdot|\*|-|\\times)\s*|\s+", re.IGNORECASE)
_NO_UNIT = re.compile(
    r"(?i)\b(?:percent|or|and|to|not|plus|minus|times|over|mod|pi|hundred|thousand|million|billion|trillion|dozen|if|then"
    r"|one|two|three|four|five|six|seven|eight|nine|ten|maybe|perhaps|half|third|quarter|factorial|infinity|inf|sqrt"
    r"|choose|is|are|where|for|all|with|since|because|true|false|yes|no|none|undefined|answer|sin|cos|tan|ln|log|exp)\b"
)
MAX_CHARACTERS = 60


@dataclass(frozen=True)
class Unit:
    """A unit. measures: the powers of what it measures, None for words of no known unit; size: in SI units."""

    measures: frozenset[tuple[str, int]] | None
    size: Fraction = Fraction(1)
    known_words: bool = True

    def converts_to(self, other: Unit) -> bool:
        """Return whether both measure the same; a unit that is not known may be any other."""
        return self.measures is None or other.measures is None or self.measures == other.measures


DEGREE = Unit(frozenset({("degrees", 1)}))
RADIAN = Unit(frozenset({("radians", 1)}))


@functools.lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit | None:
    """Return the unit that the words spell; None for words that cannot stand for a unit, such as "or" and "million"."""
    text = text.strip().rstrip(".") if len(text) > 4 else text.strip()
    if not text or len(text) > MAX_CHARACTERS or _NO_UNIT.search(text):
        return None
    powers: Counter[str] = Counter()
    size, known, place, sign, pending = Fraction(1), True, 0, 1, 1
    all_known = True
    while place < len(text):
        piece = _PIECE.match(text, place)
        if piece is None:
            return None
        word, power = piece["unit"], int(piece["power"] or piece["glued"] or 1)
        place = piece.end()
        if word.lower() in ("square", "sq", "sq.", "cubic", "cu", "cu."):
            pending = _WORDS_OF_POWER[word.lower().rstrip(".")]
        elif word.lower() in ("squared", "cubed"):
            powers, size = _raised(powers, size, _WORDS_OF_POWER[word.lower()])
        else:
            found = _simple(word)
            known &= found is not None
            all_known &= found is not None
            if found is not None:
                measures, one = found
                total = sign * power * pending
                for name, each in measures.items():
                    powers[name] += each * total
                size *= one**total
            pending = 1
        join = _JOIN.match(text, place)
        if join is not None and place < len(text):
            place = join.end()
            if join["over"]:
                sign = -1
        elif place < len(text):
            return None
    if pending != 1 or not known:
        return Unit(None, known_words=all_known)
    return Unit(frozenset((name, power) for name, power in powers.items() if power), size)


def _raised(powers: Counter[str], size: Fraction, exponent: int) -> tuple[Counter[str], Fraction]:
    return Counter({name: power * exponent for name, power in powers.items()}), size**exponent


def _simple(word: str) -> tuple[dict[str, int], Fraction] | None:
    """Return what one word measures and its size; None for a word that is no unit."""
    bare = word.lstrip("\\^ ").lower().rstrip(".").replace("circ", "°").replace(" ", "")
    found = _NAMES.get(bare) or (_NAMES.get(bare.removesuffix("s")) if len(bare) > 2 else None)
    if found is None:
        made = _BY_DEFINITION.get(bare)
        unit = read_unit(made) if made else None
        return (dict(unit.measures), unit.size) if unit and unit.measures is not None else None
    measures, size = found
    return _MADE_OF.get(measures, {measures: 1}), size

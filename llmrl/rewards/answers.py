"""Reading of answers: the normal form of an answer's text, and its exact number, list, set or interval."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 400
MAX_EXPONENT = 400

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT_RUN = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
_VULGAR_AFTER_DIGIT = re.compile(r"(?<=\d)(?=[¼½¾⅐-⅞])")
_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "⁄": "/", "∕": "/", "÷": "/", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",  # noqa: RUF001
        "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "±": r"\pm ", "∪": r"\cup ", "≤": r"\le ", "≥": r"\ge ",  # noqa: RUF001
        "°": r"^\circ", "∅": r"\emptyset ", "“": '"', "”": '"', "’": "'", "‘": "'",  # noqa: RUF001
    }
)  # fmt: skip
_SPACING = re.compile(
    r"(?<!\\)\\[,!;: ]|\\q?quad(?![a-zA-Z])|\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![a-zA-Z])|~"
)
_TEXT_GROUP = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mathsf|operatorname|mbox)\s*\{([^{}]*)\}"
)
_RENAMED = (
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\leq(?:slant)?(?![a-zA-Z])|<="), r"\\le "),
    (re.compile(r"\\geq(?:slant)?(?![a-zA-Z])|>="), r"\\ge "),
    (re.compile(r"\\neq(?![a-zA-Z])|!="), r"\\ne "),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    # x > 1: (1, 2)
    (re.compile(r"\A[^:]*(?:[<>]|\\[lg]e(?![a-zA-Z]))[^:]*:\s*([(\[].*[)\]])\s*\Z", re.DOTALL), r"\1"),
    (re.compile(r"\\(?:varnothing|oslash)(?![a-zA-Z])"), r"\\emptyset "),
    (re.compile(r"\^\s*\{\s*\\circ\s*\}"), r"^\\circ"),
    (re.compile(r"\\degree(?![a-zA-Z])"), r"^\\circ"),
    (re.compile(r"\\sqrt\s+(\d+|[a-zA-Z])"), r"\\sqrt{\1}"),
)
_MATH_MODE = re.compile(r"(?<!\\)\\[()\[\]]|(?<!\\)\$\$")
_MATH_MODE_PAIR = re.compile(r"(?<!\\)\$([^$]*(?:\\\$[^$]*)*)(?<!\\)\$")
_QUOTES = ("**", "`", '"', "'")


def normal_form(text: str) -> str:
    r"""Return one spelling for answers that differ only in typesetting, such as `$\dfrac12$.` and `\frac{1}{2}`."""
    text = _VULGAR_AFTER_DIGIT.sub(" ", text)
    text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPTS) + "}", text)
    text = unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)
    text = _SPACING.sub(" ", text.replace("{,}", ",").replace(r",\!", ","))
    text = _MATH_MODE_PAIR.sub(r" \1 ", _MATH_MODE.sub(" ", text)).strip()
    for quote in _QUOTES:
        if text.startswith(quote) and text.rstrip(".").endswith(quote):
            text = text.rstrip(".")[len(quote) : -len(quote)]
    for _ in range(3):  # text groups may nest
        text = _TEXT_GROUP.sub(r" \1 ", text)
    for pattern, replacement in _RENAMED:
        text = pattern.sub(replacement, text)
    return " ".join(text.split()).rstrip(" .;,:").lstrip(" :=")


@dataclass(frozen=True)
class Quantity:
    """An exact number as it was written: "$1,200", "45%", "3 1/2 cm", "1.5 \\times 10^{3}"."""

    value: Fraction
    percent: bool = False
    unit: str = ""


_INTEGER = r"\d{1,3}(?:,\d{3})+|\d+"
_DECIMAL = rf"(?:(?:{_INTEGER})(?:\.\d*)?|\.\d+)"
_QUANTITY = re.compile(
    r"(?P<sign>[-+]?)\s*(?P<currency>\\?[$€£¥₹])?\s*(?P<inner_sign>[-+]?)\s*"
    rf"(?:(?P<whole>\d+)\s*(?P<mixed>\\frac\s*\{{\s*\d+\s*\}}\s*\{{\s*\d+\s*\}})"
    r"|(?P<whole_slash>\d+)[ ](?P<mixed_slash>\d+\s*/\s*\d+)"
    rf"|\\frac\s*\{{\s*(?P<top>[-+]?\s*{_DECIMAL})\s*\}}\s*\{{\s*(?P<bottom>[-+]?\s*{_DECIMAL})\s*\}}"
    rf"|(?P<over>{_DECIMAL})\s*/\s*(?P<under>{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL}))"
    r"(?:[eE](?P<e>[-+]?\d{1,4})(?!\w)|\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{\s*(?P<braced>-?\d{1,4})\s*\}|(?P<bare>-?\d)(?!\d)))?"
    r"\s*(?P<percent>\\?%|percent\b)?"
    r"\s*(?P<unit>.*)",
    re.DOTALL,
)
_UNIT = re.compile(
    r"\^\\circ(?:\s*[CFK])?|\\?[$€£¥₹]|"
    r"[^\W\d_][^\W\d_.'-]*\.?(?:\s*\^\s*\{?\s*-?\d\s*\}?)?"
    r"(?:(?:\s*/\s*|\s+|-)[^\W\d_][^\W\d_.'-]*\.?(?:\s*\^\s*\{?\s*-?\d\s*\}?)?){0,4}"
)
_NOT_A_UNIT = re.compile(
    r"(?i)\b(?:or|and|to|not|plus|minus|times|over|mod|pi|hundred|thousand|million|billion|trillion|dozen"
    r"|one|two|three|four|five|six|seven|eight|nine|ten|maybe|perhaps|half|third|quarter|squared|cubed|factorial)\b"
)
_VARIABLES = frozenset("n j w v a")  # N, J, W, V, A are units
_WORD = re.compile(r"[^\W\d_]+")
_UNIT_NAMES = {
    alias: name
    for name, aliases in {
        "millimeter": "mm millimeter millimetre", "centimeter": "cm centimeter centimetre",
        "meter": "m meter metre", "kilometer": "km kilometer kilometre", "inch": "in inch inche",
        "foot": "ft foot feet", "yard": "yd yard", "mile": "mi mile", "milligram": "mg milligram",
        "gram": "g gram", "kilogram": "kg kilogram kilo", "pound": "lb pound", "ounce": "oz ounce",
        "milliliter": "ml milliliter millilitre", "liter": "l liter litre", "second": "s sec second",
        "minute": "min minute", "hour": "h hr hour", "day": "d day", "week": "wk week", "month": "month",
        "year": "yr year", "dollar": "$ dollar usd", "cent": "¢ cent", "euro": "€ euro", "degree": r"^\circ degree",
        "newton": "n newton", "joule": "j joule", "watt": "w watt", "volt": "v volt", "ampere": "a amp ampere",
        "mile per hour": "mph", "kilometer per hour": "kmh kph", "pound per square inch": "psi",
    }.items()
    for alias in aliases.split()
}  # fmt: skip


def quantity(text: str) -> Quantity | None:
    """Return the exact number that `text`, in normal form, spells; None if it spells no number."""
    if len(text) > MAX_DIGITS:
        return None
    match = _QUANTITY.fullmatch(text)
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    unit = match["unit"].strip()
    if unit and not _is_unit(unit, glued=text[match.start("unit") - 1].isdigit()):
        return None
    try:
        value = _magnitude(match)
    except (ValueError, ZeroDivisionError):
        return None
    exponent = int(match["e"] or match["braced"] or match["bare"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    value *= Fraction(10) ** exponent
    negative = "-" in (match["sign"], match["inner_sign"])
    return Quantity(-value if negative else value, bool(match["percent"]), unit or match["currency"] or "")


def _is_unit(unit: str, *, glued: bool) -> bool:
    """Return whether a number may have these words as its unit; the x y of "4 x y" and "million" are no units."""
    if not _UNIT.fullmatch(unit) or _NOT_A_UNIT.search(unit):
        return False
    # A single letter is a unit only in its usual case: 5 N, but not 5 n.
    words = _WORD.findall(unit.replace("\\circ", ""))
    free = {word for word in words if len(word) > 2} if not glued else set()
    return all(word in free or (known_unit(word) and word not in _VARIABLES) for word in words)


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
    return _decimal(match["decimal"])


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").rstrip("."))


def known_unit(unit: str) -> str | None:
    """Return a unit's one name: "cm", "cms", "centimeters", "cm^2" -> "centimeter"; None for any other words."""
    bare = re.sub(r"\s*\^\s*\{?\s*-?\d\s*\}?$", "", unit).strip().rstrip(".").lstrip("\\").lower()
    if unit.startswith("^\\circ"):
        bare = "^\\circ"
    return _UNIT_NAMES.get(bare) or _UNIT_NAMES.get(bare.removesuffix("s"))


def terminates(value: Fraction) -> bool:
    """Return whether a finite decimal equals the number."""
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


_PAIRS = {"(": ")", "[": "]", "{": "}"}
_OPENING = frozenset(_PAIRS)
_CLOSING = frozenset(_PAIRS.values())
_OR = re.compile(r"\b(?:or|and)\b|\\(?:lor|land|vee)(?![a-z])|;")
_UNION = re.compile(r"\\cup(?![a-z])|(?<=[)\]}])\s*U\s*(?=[(\[{\\])")
_COMMA = re.compile(",")
_BETWEEN = re.compile(r"(.+?)(<|\\le(?![a-z]))\s*[a-zA-Z]\s*(<|\\le(?![a-z]))(.+)", re.DOTALL)
_BEYOND = re.compile(r"[a-zA-Z]\s*(<|>|\\[lg]e(?![a-z]))(.+)", re.DOTALL)
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")


@dataclass(frozen=True)
class Collection:
    """Several answers and their brackets: "()", "[)", ... for a tuple or interval, "{}" for a set, "" for a list."""

    elements: tuple[str, ...]
    brackets: str = ""

    @property
    def ordered(self) -> bool:
        return self.brackets not in ("", "{}", "union")

    def comparable(self, other: Collection) -> bool:
        """Return whether both have the same brackets; a bare list may also be compared with a set or a tuple."""
        return self.brackets == other.brackets or {self.brackets, other.brackets} in ({"", "{}"}, {"", "()"})


def collection(text: str) -> Collection | None:
    r"""Return the several answers that `text`, in normal form, spells; None if it spells a single answer.

    Several answers are a list ("2, 3", "2 or 3", "2 \pm \sqrt{6}"), a set, a tuple, an interval, or a union of those.
    """
    parts = _split(text, _UNION)
    if len(parts) > 1:
        return Collection(parts, "union")
    listed = tuple(one for part in _split(text, _OR) for element in _commas(part) for one in _plus_minus(element))
    if len(listed) > 1:
        return Collection(listed)
    inner = text.replace(r"\{", "{").replace(r"\}", "}")
    if len(inner) > 2 and _PAIRS.get(inner[0]) and inner[-1] in _CLOSING and _closes_last(inner):
        brackets, elements = inner[0] + inner[-1], _commas(inner[1:-1])
        if len(elements) > 1 or brackets == "{}":
            return Collection(elements, brackets)
    return None


def interval(text: str) -> Collection | None:
    r"""Return the interval that an inequality in one variable spells: "1 < x \le 5" is (1, 5]; None for other text."""
    between = _BETWEEN.fullmatch(text)
    if between:
        low, left, right, high = between.groups()
        brackets = ("(" if left == "<" else "[") + (")" if right == "<" else "]")
        return Collection((low.strip(), high.strip()), brackets)
    beyond = _BEYOND.fullmatch(text)
    if beyond:
        relation, bound = beyond[1], beyond[2].strip()
        if relation in ("<", r"\le"):
            return Collection((r"-\infty", bound), "()" if relation == "<" else "(]")
        return Collection((bound, r"\infty"), "()" if relation == ">" else "[)")
    return None


def nesting(text: str) -> int:
    """Return the depth of the most deeply nested brackets."""
    depth = deepest = 0
    for character in text:
        depth += (character in _OPENING) - (character in _CLOSING)
        deepest = max(deepest, depth)
    return deepest


def _split(text: str, separator: re.Pattern[str]) -> tuple[str, ...]:
    """Return the non-empty parts of `text` between separators that stand outside all brackets."""
    parts, start, depth, seen = [], 0, 0, 0
    for match in separator.finditer(text):
        between = text[seen : match.start()]
        depth += sum((character in _OPENING) - (character in _CLOSING) for character in between)
        seen = match.start()
        if depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    parts.append(text[start:])
    return tuple(part.strip() for part in parts if part.strip())


def _commas(text: str) -> tuple[str, ...]:
    """Return the elements between commas; if any comma has a space after it, "522,720" is one number."""
    if quantity(text):
        return (text,)
    if ", " in text:
        text = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
    return _split(text, _COMMA)


def _plus_minus(text: str) -> tuple[str, ...]:
    if r"\pm" not in text:
        return (text,)
    signs = (("+", "-"), ("-", "+"))
    return tuple(text.replace(r"\pm", pm).replace(r"\mp", mp).lstrip("+ ") for pm, mp in signs)


def _closes_last(text: str) -> bool:
    """Return whether the last character of `text` closes the bracket that opens `text`."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return position == len(text) - 1
    return False

"""Several answers in one: lists, sets, tuples, intervals, unions and matrices, as texts in brackets."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from llmrl.rewards.answers.brackets import PAIRS, closes_last, split
from llmrl.rewards.answers.names import assignment
from llmrl.rewards.answers.numbers import quantity

_OR = re.compile(r"\b(?:or|and)\b|;")
_UNION = re.compile(r"\\cup(?![a-z])|(?<=[)\]}])\s*U\s*(?=[(\[{\\])")
_COMMA = re.compile(r"[,;]")
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
_BRACKET = re.compile(r"[(\[]|\\\{")
_INDEX = re.compile(r"_(?:\{\d+\}|\d+)\Z")
_MATRIX = re.compile(
    r"\\begin\s*\{(?:[pb]|small)?(?P<kind>matrix|array|cases)\}(?:\s*\{[lcr|]+\})?(?P<body>.*)\\end\s*\{\w+\}",
    re.DOTALL,
)
_ROW = re.compile(r"\\\\(?:\s*\[[^\[\]]*\])?")
_CELL = re.compile("&")

LIST, SET, TUPLE, UNION, ROW, COLUMN = "", "{}", "()", "union", "row", "column"
_COMPARABLE = (
    {LIST, SET}, {LIST, TUPLE}, {ROW, TUPLE}, {ROW, "[]"}, {COLUMN, TUPLE}, {COLUMN, "[]"},
)  # fmt: skip


@dataclass(frozen=True)
class Collection:
    """Several answers and their brackets: "()", "[)", ... for a tuple or interval, "{}" for a set, "" for a list.

    names: those of the elements, if each has another name, as in "x = 2, y = 3".
    """

    elements: tuple[str, ...]
    brackets: str = LIST
    names: tuple[str, ...] = ()

    @property
    def ordered(self) -> bool:
        return self.brackets not in (LIST, SET, UNION)

    def in_order_of_names(self) -> tuple[str, ...]:
        """Return the elements in the alphabetical order of their names, as they are written without names."""
        if not self.names:
            return self.elements
        return tuple(value for _, value in sorted(zip(self.names, self.elements, strict=True)))

    def comparable(self, other: Collection) -> bool:
        """Return whether both have the same brackets; a bare list may also be compared with a set or a tuple."""
        kinds = {self.brackets, other.brackets}
        listed = kinds == {LIST, "[]"} and len(self.elements) > 2  # [1, 2] is an interval
        return len(kinds) == 1 or kinds in _COMPARABLE or listed


@functools.lru_cache(maxsize=8192)
def collection(text: str) -> Collection | None:
    r"""Return the several answers that `text`, in normal form, spells; None if it spells a single answer.

    Several answers are a list ("2, 3", "2 or 3", "2 \pm \sqrt{6}"), a set, a tuple, an interval, a matrix, or a union.
    Values of several names ("x = 2, y = 3") are a tuple.
    """
    if "\\begin" in text:
        found = _matrix(text)
        if found:
            return found
    parts = split(text, _UNION) if "\\cup" in text or "U" in text else (text,)
    if len(parts) > 1:
        return Collection(parts, UNION)
    parts = split(text, _OR)
    named = _named_tuple(text) or _named(text, parts)
    if named:
        return named
    listed = [element for part in parts for element in _alternative(part)]
    return Collection(tuple(listed)) if len(listed) > 1 else _bracketed(text)


def _alternative(text: str) -> list[str]:
    """Return the elements of one alternative: those between commas, or one tuple of the values of several names."""
    named = _named(text, (text,))
    if named:
        return [f"({', '.join(named.in_order_of_names())})"]
    return [one for element in elements_of(text) for one in _plus_minus(element)]


def _named_tuple(text: str) -> Collection | None:
    """Return the values of (x, y) = (2, 5) with their names."""
    name, value = assignment(text)
    names, values = (_bracketed(part) for part in (name, value)) if name.startswith("(") else (None, None)
    if names is None or values is None or len(names.elements) != len(values.elements):
        return None
    return Collection(values.elements, TUPLE, names.elements)


def _named(text: str, parts: tuple[str, ...]) -> Collection | None:
    """Return the values of several names, each of which occurs once; x_1 and x_2 are one name."""
    if "=" not in text:
        return None
    found = [assignment(element) for part in parts for element in elements_of(part)]
    names = tuple(_INDEX.sub("", name) for name, _ in found)
    if len(found) < 2 or not all(names) or len(set(names)) < len(names):
        return None
    return Collection(tuple(value for _, value in found), TUPLE, names)


def _bracketed(text: str) -> Collection | None:
    inner = text.replace(r"\{", "{").replace(r"\}", "}")
    if inner.startswith("<") and inner.endswith(">") and "," in inner:
        inner = f"({inner[1:-1]})"
    if len(inner) > 1 and PAIRS.get(inner[0]) and inner[-1] in PAIRS.values() and closes_last(inner):
        brackets, elements = inner[0] + inner[-1], elements_of(inner[1:-1], inside=True)
        if len(elements) > 1 or text.startswith(r"\{"):
            return Collection(elements, brackets)
    return None


def _matrix(text: str) -> Collection | None:
    inner = text[1:-1].strip() if text[0] + text[-1] in ("[]", "()") else text
    match = _MATRIX.fullmatch(inner)
    if match is None:
        return None
    rows = [split(row, _CELL) for row in _ROW.split(match["body"]) if row.strip()]
    if not rows:
        return None
    if match["kind"] == "cases":
        return Collection(tuple(row[0] for row in rows)) if all(len(row) == 1 for row in rows) else None
    if len(rows) == 1:
        return Collection(rows[0], ROW)
    if all(len(row) == 1 for row in rows):
        return Collection(tuple(row[0] for row in rows), COLUMN)
    return Collection(tuple(f"[{', '.join(row)}]" for row in rows), "[]")


def elements_of(text: str, *, inside: bool = False) -> tuple[str, ...]:
    """Return the elements between commas. inside: whether brackets hold them, where "1,200" is two numbers.

    If some comma has a space behind it, "522,720" is one number.
    """
    if not inside and quantity(text):
        return (text,)
    if not inside and ", " in text and not _BRACKET.search(text):
        text = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
    return split(text, _COMMA)


def _plus_minus(text: str) -> tuple[str, ...]:
    if r"\pm" not in text and r"\mp" not in text:
        return (text,)
    signs = (("+", "-"), ("-", "+"))
    return tuple(text.replace(r"\pm", pm).replace(r"\mp", mp).lstrip("+ ") for pm, mp in signs)

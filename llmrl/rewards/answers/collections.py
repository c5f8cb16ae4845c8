"""Several answers in one: lists, sets, tuples, intervals, unions and matrices, as texts in brackets."""

from __future__ import annotations

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
_MATRIX = re.compile(
    r"\\begin\s*\{(?:[pb]|small)?(?P<kind>matrix|array)\}(?:\s*\{[lcr|]+\})?(?P<body>.*)\\end\s*\{\w+\}", re.DOTALL
)
_ROW = re.compile(r"\\\\")
_CELL = re.compile("&")

LIST, SET, TUPLE, UNION, ROW, COLUMN = "", "{}", "()", "union", "row", "column"
_COMPARABLE = (
    {LIST, SET}, {LIST, TUPLE}, {ROW, TUPLE}, {ROW, "[]"}, {COLUMN, TUPLE}, {COLUMN, "[]"},
)  # fmt: skip


@dataclass(frozen=True)
class Collection:
    """Several answers and their brackets: "()", "[)", ... for a tuple or interval, "{}" for a set, "" for a list."""

    elements: tuple[str, ...]
    brackets: str = LIST

    @property
    def ordered(self) -> bool:
        return self.brackets not in (LIST, SET, UNION)

    def comparable(self, other: Collection) -> bool:
        """Return whether both have the same brackets; a bare list may also be compared with a set or a tuple."""
        return self.brackets == other.brackets or {self.brackets, other.brackets} in _COMPARABLE


def collection(text: str) -> Collection | None:
    r"""Return the several answers that `text`, in normal form, spells; None if it spells a single answer.

    Several answers are a list ("2, 3", "2 or 3", "2 \pm \sqrt{6}"), a set, a tuple, an interval, a matrix, or a union.
    Values of several names ("x = 2, y = 3") are a tuple in the order of the names.
    """
    if "matrix" in text or "array" in text:
        found = _matrix(text)
        if found:
            return found
    parts = split(text, _UNION) if "\\cup" in text or "U" in text else (text,)
    if len(parts) > 1:
        return Collection(parts, UNION)
    listed = [element for part in split(text, _OR) for element in _alternative(part)]
    if len(listed) > 1:
        return Collection(tuple(listed))
    if listed and listed[0] != text and listed[0].startswith("("):
        text = listed[0]
    return _bracketed(text)


def _alternative(text: str) -> list[str]:
    """Return the elements of one alternative: those between commas, or one tuple of the values of several names."""
    elements = elements_of(text)
    if len(elements) > 1:
        named = [assignment(element) for element in elements]
        names = [name for name, _ in named]
        if all(names) and len(set(names)) == len(names):
            plain = all(name.isalpha() for name in names)
            values = [value for _, value in (sorted(named) if plain else named)]
            return [f"({', '.join(values)})"]
    return [one for element in elements for one in _plus_minus(element)]


def _bracketed(text: str) -> Collection | None:
    inner = text.replace(r"\{", "{").replace(r"\}", "}")
    if inner.startswith(r"\langle") and inner.endswith(r"\rangle"):
        inner = f"({inner[len(chr(92) + 'langle') : -len(chr(92) + 'rangle')]})"
    elif inner.startswith("<") and inner.endswith(">") and "," in inner:
        inner = f"({inner[1:-1]})"
    if len(inner) > 1 and PAIRS.get(inner[0]) and inner[-1] in PAIRS.values() and closes_last(inner):
        brackets, elements = inner[0] + inner[-1], elements_of(inner[1:-1], inside=True)
        if len(elements) > 1 or text.startswith(r"\{"):
            return Collection(elements, brackets)
    return None


def _matrix(text: str) -> Collection | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [split(row, _CELL) for row in _ROW.split(match["body"]) if row.strip()]
    if not rows:
        return None
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

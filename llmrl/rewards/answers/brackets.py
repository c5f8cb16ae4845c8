"""Brackets: splitting a text at separators that stand outside all of them."""

from __future__ import annotations

import re

PAIRS = {"(": ")", "[": "]", "{": "}"}
_OPENING = frozenset(PAIRS)
_CLOSING = frozenset(PAIRS.values())


def nesting(text: str) -> int:
    """Return the depth of the most deeply nested brackets."""
    depth = deepest = 0
    for character in text:
        depth += (character in _OPENING) - (character in _CLOSING)
        deepest = max(deepest, depth)
    return deepest


def split(text: str, separator: re.Pattern[str]) -> tuple[str, ...]:
    """Return the non-empty parts of `text` between separators that stand outside all brackets."""
    return tuple(part for part, _ in split_with(text, separator) if part)


def split_with(text: str, separator: re.Pattern[str]) -> list[tuple[str, str]]:
    """Return the parts of `text`, each with the separator behind it, "" behind the last."""
    parts, start, depth, seen = [], 0, 0, 0
    for match in separator.finditer(text):
        for character in text[seen : match.start()]:
            depth += (character in _OPENING) - (character in _CLOSING)
        seen = match.start()
        if depth == 0:
            parts.append((text[start : match.start()].strip(), match.group().strip()))
            start = match.end()
    parts.append((text[start:].strip(), ""))
    return parts


def closes_last(text: str) -> bool:
    """Return whether the last character of `text` closes the bracket that opens `text`."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth == 0:
            return position == len(text) - 1
    return False


def without_braces(text: str) -> str:
    """Return the text without braces that only group the whole of it, as those of {5} do; {1, 2} is a set."""
    while text.startswith("{") and text.endswith("}") and "," not in text and closes_last(text):
        text = text[1:-1].strip()
    return text

"""Bounds on values that come from outside, in rows and in recipes: within them, every part of llmrl can work."""

from __future__ import annotations

from typing import Any

DEEPEST = 50
MOST_DIGITS = 4300
"""Python reads and writes no longer integers as text."""

_LARGEST = 10**MOST_DIGITS


def out_of_bounds(value: Any, *, most_values: int | None = None) -> str | None:
    """Why a value, or one inside it, cannot be worked with, to be read after "holds"; None if all can.

    most_values: how many values, with those that anchors of YAML repeat, there may be; default: any number.
    """
    left, count = [(value, 0)], 0
    while left:
        value, depth = left.pop()
        count += 1
        if isinstance(value, str):
            if not value.isascii() and has_half_pair(value):
                return "half of a surrogate pair, which is no character"
        elif isinstance(value, dict):
            left += [(one, depth + 1) for pair in value.items() for one in pair]
        elif isinstance(value, list | tuple):
            left += [(one, depth + 1) for one in value]
        elif isinstance(value, int) and abs(value) >= _LARGEST:
            return f"an integer of more than {MOST_DIGITS} digits"
        if depth > DEEPEST:
            return f"values nested deeper than {DEEPEST} levels"
        if most_values is not None and count > most_values:
            return f"more than {most_values} values, with what its anchors stand for"
    return None


def has_half_pair(text: str) -> bool:
    """Whether a text holds half of a UTF-16 surrogate pair: no encoding and no tokenizer takes one."""
    return any("\ud800" <= character <= "\udfff" for character in text)

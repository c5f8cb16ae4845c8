"""Faults a user can mend: one readable message each, exit code 2, no traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name closest to a misspelt one, or None if nothing is close."""
    found = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.6)
    return found[0] if found else None


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the exception's type if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def short(value: Any) -> str:
    """A value on one line of at most 80 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits, or a value that holds itself
        text = f"<a {type(value).__name__} that cannot be printed>"
    return text if len(text) <= 80 else text[:77] + "..."


class RecipeError(Exception):
    """A recipe, file or flag that cannot be used: one or more faults, each a full sentence."""

    exit_code = 2

    def __init__(self, *faults: str):
        super().__init__("\n".join(faults))
        self.faults = list(faults)


@contextmanager
def gathered(faults: list[str]) -> Iterator[None]:
    """Catches a RecipeError and adds its faults to `faults`, so that one report has all of them."""
    try:
        yield
    except RecipeError as error:
        faults += error.faults


@contextmanager
def faults_at(key: str) -> Iterator[None]:
    """Puts the key of a recipe before each fault of a RecipeError."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(*(f"{key}: {fault}" for fault in error.faults)) from None


class RunStopped(Exception):
    """A run that cannot go on (bad numbers, full disk, mismatch): the last good checkpoint is kept."""

    exit_code = 1


def unknown_name(key: str, name: str, valid: Iterable[str], what: str) -> str:
    """The fault for a name that does not exist, with the key, the value and the nearest valid name."""
    valid = sorted(valid)
    guess = nearest(name, valid)
    hint = f"did you mean '{guess}'?" if guess else f"valid: {', '.join(valid) or 'none'}"
    return f"{key}: no {what} named '{name}'; {hint}"

"""Marks that a reward function carries about what it returns and how it is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def gives_levels(count: int) -> Callable[[Function], Function]:
    """Marks a verifier whose scores carry a `level`, one of 0 (the worst outcome) to count - 1 (the best).

    A critic with as many outputs may then predict it. Raises ValueError for fewer than 2.
    """
    if count < 2:
        raise ValueError(f"count: {count} is not valid, expected at least 2 levels")

    def mark(function: Function) -> Function:
        setattr(function, "levels", count)  # noqa: B010  a function has no such attribute for a type checker
        return function

    return mark


def takes_seconds(seconds: float) -> Callable[[Function], Function]:
    """Marks a function that may take this long: its deadline, where a recipe sets none. Raises ValueError for <= 0."""
    if not seconds > 0:
        raise ValueError(f"seconds: {seconds} is not valid, expected more than 0")

    def mark(function: Function) -> Function:
        setattr(function, "deadline_seconds", seconds)  # noqa: B010  as above
        return function

    return mark

"""Marks that a piece carries about when it may be used; a recipe that goes against one is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def exact_on_policy(reason: str) -> Callable[[Function], Function]:
    """Marks a loss or an advantage that is exact only for the policy that sampled: one update per batch."""

    def mark(function: Function) -> Function:
        setattr(function, "exact_on_policy", reason)  # noqa: B010  a function has no such attribute for a type checker
        return function

    return mark


def made_for_stale_samples(function: Function) -> Function:
    """Marks an advantage that holds for the samples of an older policy, also under a loss without a ratio."""
    setattr(function, "made_for_stale_samples", True)  # noqa: B010
    return function


def gives_grades(count: int) -> Callable[[Function], Function]:
    """Marks a verifier whose scores carry a `grade`, one of 0 (the worst outcome) to count - 1 (the best).

    A critic with as many outputs may then predict it. Raises ValueError for fewer than 2.
    """
    if count < 2:
        raise ValueError(f"count: {count} is not valid, expected at least 2 grades")

    def mark(function: Function) -> Function:
        setattr(function, "grades", count)  # noqa: B010  a function has no such attribute for a type checker
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


def runs_programs(function: Function) -> Function:
    """Marks a reward or an environment that runs programs: whether a sandbox can be had is tried before anything loads.

    Its setting `allow_weak` says whether one without namespaces will do.
    """
    setattr(function, "runs_programs", True)  # noqa: B010  a function has no such attribute for a type checker
    return function

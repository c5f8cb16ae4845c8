"""The mark of functions that run programs in the sandbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def runs_programs(function: Function) -> Function:
    """Marks a reward or an environment that runs programs: whether a sandbox can be had is tried before anything loads.

    Its setting `allow_weak` says whether one without namespaces will do.
    """
    setattr(function, "runs_programs", True)  # noqa: B010  a function has no such attribute for a type checker
    return function

"""Cheats: wrong programs that try to be graded as right, so they attack the verdict instead of the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmrl.sandbox.attacks import liars, seams
from llmrl.sandbox.attacks.cheat import CHEATS, HONEST, TESTS, Cheat
from llmrl.sandbox.attacks.suite import Result
from llmrl.sandbox.limits import SandboxError
from llmrl.sandbox.sandbox import Sandbox

__all__ = ["CHEATS", "HONEST", "TESTS", "Cheat", "GradeProgram", "entry_point", "run_one"]

GradeProgram = Callable[[Sandbox, str, Any, str | None], str]
"""A function from a program's source, a data row's tests and the tested function's name (or None) to the outcome."""

THEMES = (liars, seams)


def run_one(sandbox: Sandbox, cheat: Cheat, grade: GradeProgram) -> Result:
    """Grade the cheat in each format; an outcome "passed" is a breach, and so is a failure of the sandbox."""
    outcomes, breaches = [], []
    for name in cheat.formats:
        try:
            outcome = grade(sandbox, cheat.source, TESTS[name], entry_point(name))
        except (SandboxError, ValueError) as error:  # no program may make the sandbox or the tests fail
            outcome = "not graded"
            breaches.append(f"{name}: {type(error).__name__}: {error}")
        if outcome == "passed":
            breaches.append(f"{name}: passed")
        outcomes.append(outcome)
    ended = ", ".join(dict.fromkeys(one.replace("_", " ") for one in outcomes))
    return Result(cheat.name, cheat.aim, ended, tuple(breaches))


def entry_point(name: str) -> str | None:
    """Return the name of the function under test for a format of tests, None if the program is run as a whole."""
    return None if name == "stdin" else "f"

"""Trial gradings in a given sandbox: the attack suite and the speed benchmark of `llmrl sandbox` use them."""

from __future__ import annotations

from typing import Any

from llmrl.rewards.code.case_formats import read_tests
from llmrl.rewards.code.grader import Grader, Outcome
from llmrl.sandbox import Limits, Sandbox, SandboxError

LIMITS = Limits(cpu_seconds=2.0, wall_seconds=60.0)
PROGRAM = "def square(x):\n    return x * x\n\nif __name__ == '__main__':\n    print(square(int(input())))\n"


def grade(sandbox: Sandbox, source: str, tests: Any, entry_point: str | None) -> Outcome:
    """Grade a program and return the outcome; raises the exceptions of code_verifier."""
    return Grader(sandbox, LIMITS).verdict(source, read_tests(tests, entry_point=entry_point)).outcome


def grade_output(sandbox: Sandbox) -> None:
    """Grade a right program by one test of its output; raises SandboxError if it does not pass."""
    _expect_passed(grade(sandbox, PROGRAM, {"inputs": ["3\n"], "outputs": ["9\n"]}, None))


def grade_calls(sandbox: Sandbox) -> None:
    """Grade a right program by three assertions; raises SandboxError if it does not pass."""
    tests = [f"assert square({number}) == {number * number}" for number in (2, 3, 4)]
    _expect_passed(grade(sandbox, PROGRAM, tests, "square"))


def _expect_passed(outcome: Outcome) -> None:
    if outcome != "passed":
        raise SandboxError(f"a right program was graded {outcome}")

"""Helpers that grade a program by its tests in the real sandbox."""

from __future__ import annotations

import textwrap
from typing import Any

from llmrl.rewards.code.verifier import code_verifier
from llmrl.types import Score

SUMS = {"inputs": ["2\n1 2\n3 4\n", "1\n-5 5"], "outputs": ["3\n7\n", "0"]}
CALLS = {"inputs": [[[3, 1, 2]], [[]]], "outputs": [[[1, 2, 3]], [[]]], "fn_name": "ordered"}
GRADES = {"passed": 3, "wrong": 2, "runtime_error": 1, "timeout": 1}


def completion(source: str) -> str:
    return f"I think so:\n\n```python\n{textwrap.dedent(source)}\n```\n"


def graded(source: str, tests: Any, *, row: dict[str, Any] | None = None, **settings: Any) -> Score:
    return code_verifier(completion(source), {"tests": tests, **(row or {})}, **settings)


def outcome(source: str, tests: Any, **settings: Any) -> str | None:
    """Grade a program, check that the score's other fields agree with its outcome, and return the outcome."""
    score = graded(source, tests, **settings)
    passed = score.outcome == "passed"
    assert score.correct is passed, score
    assert score.grade == GRADES.get(score.outcome or "", 0), score
    assert score.value == float(passed), score
    return score.outcome

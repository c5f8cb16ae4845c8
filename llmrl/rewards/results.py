"""The results of reward functions, made into a Score, a Failure, or nothing."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from llmrl.types import Failure, Score

NO_REWARD = Failure(
    "rewards", "invalid", "no reward applies to this row: each returned None or is limited to other rows"
)
"""The failure of a trajectory that no reward scored."""


def as_score(source: str, result: Any, *, turns: int, grades: int | None) -> Score | Failure | None:
    """The result as a Score of plain numbers; None says that the row is not the reward's to score.

    A bool is a verdict, also numpy's, torch's and sympy's. source: the reward's name. turns: the author's turns.
    grades: how many grades the reward may give; None: any number. Anything but None, a finite number, a bool or a Score
    is an "invalid" Failure.
    """
    if result is None:
        return None
    score = result if isinstance(result, Score) else Score(result, _truth(result))
    try:
        return _plain(score, turns, math.inf if grades is None else grades)
    except _Unexpected as error:
        return Failure(source, "invalid", f"returned {error}")
    except (TypeError, ValueError, RuntimeError, OverflowError):  # as libraries refuse to make a float of something
        return Failure(source, "invalid", f"returned {shown(result)}, expected a number, a bool or a Score")


def shown(value: Any) -> str:
    """The value as text of at most 200 characters."""
    return repr(value)[:200]


class _Unexpected(Exception):
    """Part of a result that is not as it should be, in words."""


def _plain(score: Score, turns: int, grades: float) -> Score:
    value, turn_values = _number(score.value), tuple(_number(one) for one in score.turn_values)
    if not all(math.isfinite(number) for number in (value, *turn_values)):
        raise _Unexpected(f"{shown(score)}, expected finite numbers")
    correct = None if score.correct is None else _truth(score.correct)
    if correct is None and score.correct is not None:
        raise _Unexpected(f"the verdict {shown(score.correct)}, expected a bool or None")
    if turn_values and turns and len(turn_values) != turns:
        raise _Unexpected(f"{len(turn_values)} turn values, expected {turns}, one per actor turn")
    return Score(value, correct, turn_values, score.outcome, _grade(score.grade, grades))


def _grade(grade: Any, grades: float) -> int | None:
    if grade is None:
        return None
    try:
        found = operator.index(grade)
    except TypeError:
        found = -1
    if not 0 <= found < grades:
        expected = "an int of at least 0" + (f" and below {grades}" if math.isfinite(grades) else "")
        raise _Unexpected(f"the grade {shown(grade)}, expected {expected}")
    return found


def _number(value: Any) -> float:
    truth = _truth(value)
    if truth is not None:
        return float(truth)
    if not hasattr(value, "__float__"):  # float() would read text as well
        raise TypeError(f"no number: {shown(value)}")
    return float(value)


def _truth(value: Any) -> bool | None:
    """The bool that `value` is in Python, numpy, torch or sympy, none of which has to be imported; else None."""
    of_an_array = getattr(value, "ndim", None) == 0 and str(getattr(value, "dtype", "")).endswith("bool")
    of_sympy = getattr(value, "is_Boolean", False) and value in (True, False)
    return bool(value) if isinstance(value, bool) or of_an_array or of_sympy else None


def of_each(result: Any, count: int) -> Sequence[Any] | None:
    """A group function's result for each trajectory; None if it is not one for each."""
    if result is None:
        return [None] * count
    return result if isinstance(result, list | tuple) and len(result) == count else None

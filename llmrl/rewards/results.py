"""The results of reward functions, made into a Score, a Failure, or nothing."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmrl.rewards.conventions import Logged
from llmrl.types import VERDICTS, Failure, Score

NO_REWARD = Failure(
    "rewards", "invalid", "no reward applies to this row: each returned None or is limited to other rows"
)
"""The failure of a trajectory that no reward scored."""


def as_score(source: str, result: Any, *, turns: int, grades: int | None) -> Score | Failure | None:
    """The result as a Score of plain numbers; None says that the row is not the reward's to score.

    A Failure is passed on as this reward's. A bool is a verdict, also numpy's, torch's and sympy's, and so is `acc` of
    a mapping with a `score`, whose other numbers are metrics. source: the reward's name. turns: the author's turns.
    grades: how many grades the reward may give; None: any number. Anything else is an "invalid" Failure.
    """
    if result is None:
        return None
    if isinstance(result, Failure):
        return replace(result, source=source)
    try:
        score = _score(result)
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
    value = _number(score.value)
    turn_values = tuple(None if one is None else _number(one) for one in score.turn_values)
    token_values = {operator.index(place): _number(one) for place, one in score.token_values.items()}
    if not all(math.isfinite(number) for number in (value, *filter(None, turn_values), *token_values.values())):
        raise _Unexpected(f"{shown(score)}, expected finite numbers")
    correct = None if score.correct is None else _truth(score.correct)
    if correct is None and score.correct is not None:
        raise _Unexpected(f"the verdict {shown(score.correct)}, expected a bool or None")
    if turn_values and turns and len(turn_values) != turns:
        raise _Unexpected(f"{len(turn_values)} turn values, expected {turns}, one per actor turn")
    if score.verdict is not None and score.verdict not in VERDICTS:
        raise _Unexpected(f"the verdict {shown(score.verdict)}, expected one of {', '.join(VERDICTS)}")
    metrics = {str(name): number for name, one in score.metrics.items() if (number := _finite(one)) is not None}
    grade = _grade(score.grade, grades)
    return Score(
        value, correct, turn_values, score.outcome, grade, metrics, token_values, score.verdict, str(score.feedback)
    )


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


def _score(result: Any) -> Score:
    if isinstance(result, Score):
        return result
    if isinstance(result, Mapping):
        if "score" not in result:
            raise _Unexpected(f"{shown(result)}, expected a mapping with 'score'")
        others = {name: value for name, value in result.items() if name != "score"}
        verdict = _truth(result["score"])
        return Score(result["score"], _truth(others.get("acc")) if verdict is None else verdict, metrics=others)
    return Score(result, _truth(result))


def _number(value: Any) -> float:
    value = _single(value)
    truth = _truth(value)
    if truth is not None:
        return float(truth)
    if not hasattr(value, "__float__"):  # float() would read text as well
        raise TypeError(f"no number: {shown(value)}")
    return float(value)


def _finite(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    try:
        number = _number(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _truth(value: Any) -> bool | None:
    """The bool that `value` is in Python, numpy, torch or sympy, none of which has to be imported; else None."""
    value = _single(value)
    of_sympy = getattr(value, "is_Boolean", False) and value in (True, False)
    return bool(value) if isinstance(value, bool) or of_sympy else None


def _single(value: Any) -> Any:
    """The element of numpy's or torch's scalar, or of an array or tensor of one; any other value as it is."""
    shape = getattr(value, "shape", None)
    return value.item() if isinstance(shape, tuple) and math.prod(shape) == 1 and hasattr(value, "item") else value


def of_each(result: Any, count: int) -> Sequence[Any] | None:
    """A call's result for each of its trajectories; None if it is not one for each.

    A list, a tuple, or an array or tensor of one dimension; or a mapping with such `rewards`, as OpenRLHF has it.
    """
    if isinstance(result, Logged):
        each = of_each(result.result, count)
        return each and _with_metrics(each, result.metrics)
    if isinstance(result, Mapping) and "rewards" in result:
        each = of_each(result["rewards"], count)
        more = result.get("extra_logs")
        others = {name: value for name, value in result.items() if name not in ("rewards", "extra_logs")}
        return each and _with_metrics(each, others | (dict(more) if isinstance(more, Mapping) else {}))
    if result is None:
        return [None] * count
    if getattr(result, "ndim", None) == 1:
        result = getattr(result, "tolist", lambda: None)()
    return result if isinstance(result, list | tuple) and len(result) == count else None


def _with_metrics(results: Sequence[Any], metrics: Mapping[str, Any]) -> list[Any]:
    """The results with metrics, each of which is one value for all, or one for each."""
    each = {name: of_each(value, len(results)) or [value] * len(results) for name, value in metrics.items()}
    found = []
    for place, result in enumerate(results):
        own = {name: values[place] for name, values in each.items()}
        try:
            score = None if result is None or not own else _score(result)
        except _Unexpected:  # as_score says what is wrong
            score = None
        found.append(result if score is None else replace(score, metrics={**score.metrics, **own}))
    return found

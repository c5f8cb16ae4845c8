"""Hindsight: an answer is scored after its consequences, and at first sight, and the two are compared."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from llmrl.marks import asks_service
from llmrl.pieces import Piece, PieceSpec, resolve
from llmrl.rewards.judges import judge_pointwise
from llmrl.rewards.respondents import Respondent
from llmrl.types import Failure, Group, Score

RATERS = {"judge_pointwise": judge_pointwise}


def _rater(name: str) -> AfterValidator:
    return AfterValidator(lambda spec: resolve(spec, RATERS, key=f"rewards.hindsight.{name}", what="rater"))


@asks_service("/models", seconds=600.0)
async def hindsight(
    group: Group,
    authors: Mapping[str, Respondent],
    *,
    immediate: Annotated[PieceSpec, _rater("immediate")],
    hindsight: Annotated[PieceSpec, _rater("hindsight")],
) -> list[Score | Failure]:
    """The score that an answer gets once its consequences are seen (RLHS, arXiv 2501.08617).

    immediate: a judge who reads question and answer. hindsight: a judge who also reads what followed, which is a note
    that a simulator writes before: a role, or a model behind a URL, with a rubric of its own. Both are judge_pointwise.
    The metrics are those of `hindsight_gap`.
    """
    assert isinstance(immediate, Piece)
    assert isinstance(hindsight, Piece)
    before, after = await asyncio.gather(
        *(rater({"group": group, "authors": authors}) for rater in (immediate, hindsight))
    )
    both = list(zip(before, after, strict=True))
    known = [(one.value, other.value) for one, other in both if isinstance(one, Score) and isinstance(other, Score)]
    shared = hindsight_gap([one for one, _ in known], [other for _, other in known]) if known else {}
    return [_with_both(one, other, shared) for one, other in both]


def hindsight_gap(immediate: Sequence[float], hindsight: Sequence[float]) -> dict[str, float]:
    """How far the scores of a group's answers at first sight mislead.

    gap       = mean of (immediate - hindsight): satisfaction that does not last
    regret    = max of hindsight - hindsight of the answer that is best at first sight (of several, their mean)
    agreement = share of the pairs that differ in hindsight which both order alike, a tie at first sight half;
                nan without such a pair
    """
    count = len(immediate)
    pairs = [(i, j) for i in range(count) for j in range(count) if hindsight[i] > hindsight[j]]
    alike = [0.5 * (1 + _sign(immediate[i] - immediate[j])) for i, j in pairs]
    first = [value for value, seen in zip(hindsight, immediate, strict=True) if seen == max(immediate)]
    return {
        "gap": math.fsum(one - other for one, other in zip(immediate, hindsight, strict=True)) / count,
        "regret": max(hindsight) - math.fsum(first) / len(first),
        "agreement": math.fsum(alike) / len(alike) if alike else math.nan,
    }


def _with_both(before: Score | Failure, after: Score | Failure, shared: Mapping[str, float]) -> Score | Failure:
    if isinstance(after, Failure):
        return after
    if isinstance(before, Failure):
        return before
    metrics: dict[str, Any] = {name: value for name, value in shared.items() if not math.isnan(value)}
    unreadable = sum(one.metrics.get("parse_failures", 0.0) for one in (before, after))
    return Score(after.value, metrics={"immediate": before.value, **metrics, "parse_failures": unreadable})


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)

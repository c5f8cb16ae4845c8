"""Win rates: a group's completions compete in pairs, and each is paid by how often it wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from llmrl.errors import RecipeError
from llmrl.marks import asks_service
from llmrl.pieces import Piece, PieceSpec, resolve
from llmrl.rewards.judges import judge_pairwise
from llmrl.rewards.opinions import Opinion, Pair, fault_of, opinions_of, score_difference
from llmrl.rewards.respondents import Respondent
from llmrl.types import Failure, Group, Score

KEY = "rewards.win_rate.opinion"


OPINIONS = {"judge_pairwise": judge_pairwise, "score_difference": score_difference}


def _opinion(spec: PieceSpec) -> Any:
    piece = resolve(spec, OPINIONS, key=KEY, what="opinion")
    if fault := fault_of(piece):
        raise RecipeError(f"{KEY}: {piece.name} {fault}")
    return piece


@asks_service("/health", seconds=600.0)
async def win_rate(
    group: Group,
    authors: Mapping[str, Respondent],
    *,
    opinion: Annotated[PieceSpec, AfterValidator(_opinion)],
    chunk: Annotated[int, Field(ge=2)] | None = None,
) -> list[Score | Failure | None]:
    """The mean chance that a completion is better than another one of its group (SPO).

        r_i = mean over j != i of P(completion i is better than completion j),    mean of r over the group = 1/2

    opinion: who says P: judge_pairwise, score_difference, or a function `module:function` of (a, b), which may also
    take prompt and row, and returns a number from 0 to 1. Equal completions are a tie that nobody is asked about.
    chunk: compare within parts of the group of at most so many completions (one more where one would be alone), which
    costs n (chunk - 1) / 2 comparisons in place of n (n - 1) / 2. A comparison without an opinion is left out of the
    mean; a completion that lacks more than half of its comparisons fails. None for a completion without others.
    """
    assert isinstance(opinion, Piece)
    texts = [one.text for one in group.trajectories]
    pairs = [pair for part in _parts(len(texts), chunk) for pair in map(Pair._make, combinations(part, 2))]
    asked = [pair for pair in pairs if texts[pair.a] != texts[pair.b]]
    found: dict[Pair, Opinion | Failure] = {pair: Opinion(0.5) for pair in pairs}
    found |= zip(asked, await opinions_of(opinion, group, asked, authors) if asked else [], strict=True)
    lengths = [one.completion_tokens for one in group.trajectories]
    return [_result(place, found, lengths) for place in range(len(texts))]


def _parts(count: int, chunk: int | None) -> list[range]:
    """The places of a group in parts of nearly equal size, none of a single place but that of a group of one."""
    number = max(1, min(math.ceil(count / (chunk or count or 1)), count // 2))
    ends = [round(count * part / number) for part in range(number + 1)]
    return [range(start, end) for start, end in pairwise(ends)]


def _result(place: int, opinions: dict[Pair, Opinion | Failure], lengths: Sequence[int]) -> Score | Failure | None:
    """The reward of one completion by the opinions on its pairs."""
    own = {pair: one for pair, one in opinions.items() if place in pair}
    answered = {pair: one for pair, one in own.items() if isinstance(one, Opinion)}
    if not own:
        return None
    if 2 * len(answered) < len(own):
        failure = next(one for one in own.values() if isinstance(one, Failure))
        missing = len(own) - len(answered)
        return replace(failure, message=f"{missing} of {len(own)} comparisons failed: {failure.message}")
    wins = [one.value if pair.a == place else 1 - one.value for pair, one in answered.items()]
    margins = [_sign(one.value - 0.5) * (lengths[pair.a] - lengths[pair.b]) for pair, one in answered.items()]
    metrics = {
        "ties": _mean([float(one.value == 0.5) for one in answered.values()]),
        "unanswered": 1 - len(answered) / len(own),
        "preferred_longer_by": _mean(margins),
    }
    for name in dict.fromkeys(name for one in answered.values() for name in one.metrics):
        metrics[name] = _mean([one.metrics[name] for one in answered.values() if name in one.metrics])
    return Score(_mean(wins), metrics=metrics)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)

"""Opinions on pairs of answers: the chance that one is better than the other, from whatever can tell."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, PositiveFloat

from llmrl.errors import RecipeError, short
from llmrl.marks import asks_service
from llmrl.pieces import Piece, PieceSpec, resolve
from llmrl.rewards.remote import remote_score, vllm_score
from llmrl.rewards.respondents import Respondent
from llmrl.rewards.reward_model import reward_model
from llmrl.types import Failure, Group, Score


class Pair(NamedTuple):
    """Two trajectories of a group, by their places in it."""

    a: int
    b: int


@dataclass(frozen=True)
class Opinion:
    """The chance in [0, 1] that the pair's first answer is better, and numbers that become metrics."""

    value: float
    metrics: Mapping[str, float] = field(default_factory=dict)


Scored = Score | Failure | float

PAIR_DATA = frozenset({"a", "b", "prompt", "row"})
"""What an opinion of one pair may read: both answers, the prompt's text, and the data row."""


def fault_of(opinion: Piece) -> str | None:
    """Why a function cannot be asked for opinions, in words."""
    data = set(opinion.data)
    if data - {"authors"} == {"group", "pairs"} or (data <= PAIR_DATA and {"a", "b"} <= data):
        return None
    taken = ", ".join(opinion.data) or "nothing"
    return f"takes {taken}; expected a, b and, if needed, prompt and row; or group, pairs and, if needed, authors"


async def opinions_of(
    opinion: Piece, group: Group, pairs: Sequence[Pair], authors: Mapping[str, Respondent]
) -> list[Opinion | Failure]:
    """The opinion on each pair. A function of one pair is called for all of them at once, a plain one in threads.

    authors: the roles of the recipe that can be asked, by name. Raises ValueError for a result that is no number from
    0 to 1.
    """
    if "pairs" in opinion.data:
        return await opinion({"group": group, "pairs": pairs, "authors": authors})
    return list(await asyncio.gather(*(_of_pair(opinion, group, pair) for pair in pairs)))


async def _of_pair(opinion: Piece, group: Group, pair: Pair) -> Opinion:
    a, b = (group.trajectories[place].text for place in pair)
    data = {"a": a, "b": b, "prompt": group.prompt.text, "row": dict(group.prompt.row)}
    if inspect.iscoroutinefunction(opinion.function):
        found = await opinion(data)
    else:
        found = await asyncio.to_thread(opinion, data)
    if not isinstance(found, int | float) or not 0 <= found <= 1:
        raise ValueError(f"{opinion.name} returned {short(found)}, expected the chance from 0 to 1 that `a` is better")
    return Opinion(float(found))


def _scores(spec: PieceSpec) -> Any:
    scoring = {function.__name__: function for function in (reward_model, remote_score, vllm_score)}
    key = "rewards.win_rate.opinion.score_difference.scores"
    piece = resolve(spec, scoring, key=key, what="reward model")
    if piece.data != ("group",):
        raise RecipeError(f"{key}: {piece.name} takes {', '.join(piece.data) or 'nothing'}; expected group alone")
    return piece


@asks_service("/health", seconds=600.0)
async def score_difference(
    group: Group,
    pairs: Sequence[Pair],
    *,
    scores: Annotated[PieceSpec, AfterValidator(_scores)],
    scale: PositiveFloat = 1.0,
) -> list[Opinion | Failure]:
    """The opinion of a reward model (Bradley-Terry): sigmoid(scale * (score of a - score of b)).

    scores: reward_model, remote_score or vllm_score with its settings, or `module:function` of a group, plain or async,
    that returns a number or a Score for each completion. It is asked once for the whole group. A completion that it
    cannot score has no opinions.
    """
    assert isinstance(scores, Piece)
    data = {"group": group}
    is_async = inspect.iscoroutinefunction(scores.function)
    found = await scores(data) if is_async else await asyncio.to_thread(scores, data)
    return [_compared(found[pair.a], found[pair.b], scale) for pair in pairs]


def _compared(a: Scored, b: Scored, scale: float) -> Opinion | Failure:
    if isinstance(a, Failure):
        return a
    if isinstance(b, Failure):
        return b
    difference = _number(a) - _number(b)
    return Opinion(0.5 * (1 + math.tanh(0.5 * scale * difference)))


def _number(scored: Score | float) -> float:
    return scored.value if isinstance(scored, Score) else scored

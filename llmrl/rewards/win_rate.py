"""Win rates: a group's completions compete in pairs, and each is paid by how often it wins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from llmrl.errors import RecipeError, unknown_name
from llmrl.marks import asks_service
from llmrl.pieces import Piece, PieceSpec, resolve
from llmrl.rewards.judges import judge_pairwise
from llmrl.rewards.opinions import Opinion, Pair, fault_of, opinions_of, score_difference
from llmrl.rewards.preference_model import preference_model
from llmrl.rewards.respondents import Respondent
from llmrl.types import DATASET, PAST, POLICY, REFERENCE, Failure, Group, Score

KEY = "rewards.win_rate.opinion"


OPINIONS = {one.__name__: one for one in (judge_pairwise, score_difference, preference_model)}


def _opinion(spec: PieceSpec) -> Any:
    piece = resolve(spec, OPINIONS, key=KEY, what="opinion")
    if fault := fault_of(piece):
        raise RecipeError(f"{KEY}: {piece.name} {fault}")
    return piece


def _writers(against: dict[str, float] | None) -> dict[str, float] | None:
    valid = [POLICY, REFERENCE, DATASET, *(f"{PAST}_{number}" for number in range(1, 10))]
    if unknown := [name for name in against or () if name not in valid]:
        raise RecipeError(unknown_name("rewards.win_rate.against", unknown[0], valid, "writer of completions"))
    return against


@asks_service("/health", seconds=600.0)
async def win_rate(
    group: Group,
    authors: Mapping[str, Respondent],
    *,
    opinion: Annotated[PieceSpec, AfterValidator(_opinion)],
    chunk: Annotated[int, Field(ge=2)] | None = None,
    against: Annotated[dict[str, float] | None, AfterValidator(_writers)] = None,
    counts_itself: bool = False,
) -> list[Score | Failure | None]:
    """The mean chance that a completion is better than another one of its group (SPO).

        r_i = mean over j != i of P(completion i is better than completion j),    mean of r over the group = 1/2

    opinion: who says P: judge_pairwise, score_difference, preference_model, or a function `module:function` of (a, b),
    which may also take prompt and row, and returns a number from 0 to 1. Equal completions are a tie that nobody is
    asked about.
    chunk: compare within parts of the group of at most so many completions (one more where one would be alone), which
    costs n (chunk - 1) / 2 comparisons in place of n (n - 1) / 2. against: the policy's completions compete with those
    of these writers alone (rollout.written_by), and r is the sum of their win rates by these weights; a completion of
    another writer competes with the policy's. counts_itself: j = i is among the opponents, with P = 1/2. A comparison
    without an opinion is left out of the mean; a completion that lacks more than half of its comparisons fails. None
    for a completion without others, and where none of the writers in `against` wrote, as on held-out prompts.
    """
    assert isinstance(opinion, Piece)
    writers = {one.writer for one in group.trajectories}
    if writers == {POLICY} and set(against or ()) - writers:
        return [None] * len(group.trajectories)
    texts = [one.text for one in group.trajectories]
    pools = _pools([one.writer for one in group.trajectories], chunk, against)
    pairs = _pairs(pools)
    asked = [pair for pair in pairs if texts[pair.a] != texts[pair.b]]
    found: dict[Pair, Opinion | Failure] = {pair: Opinion(0.5) for pair in pairs}
    found |= zip(asked, await opinions_of(opinion, group, asked, authors) if asked else [], strict=True)
    lengths = [one.completion_tokens for one in group.trajectories]
    return [
        _result(place, own, found, lengths, itself=counts_itself and group.trajectories[place].writer == POLICY)
        for place, own in enumerate(pools)
    ]


@dataclass(frozen=True)
class _Pool:
    """The opponents of a completion that one writer wrote, or all of them; weight: of the win rate against them."""

    writer: str
    weight: float
    places: tuple[int, ...]


def _pools(writers: Sequence[str], chunk: int | None, against: Mapping[str, float] | None) -> list[list[_Pool]]:
    """The opponents of each completion of a group, by their writers."""
    places = range(len(writers))
    own = [place for place in places if against is None or writers[place] == POLICY]
    parts = [[own[index] for index in part] for part in _parts(len(own), chunk)]
    part_of = {place: part for part in parts for place in part}
    found = []
    for place in places:
        if place not in part_of:
            found.append([_Pool(POLICY, 1.0, tuple(own))])
            continue
        mates = tuple(other for other in part_of[place] if other != place)
        of_others = {name: tuple(other for other in places if writers[other] == name) for name in against or ()}
        weights = {POLICY: 1.0} if against is None else against
        found.append([_Pool(name, weights[name], mates if name == POLICY else of_others[name]) for name in weights])
    return found


def _pairs(pools: Sequence[Sequence[_Pool]]) -> list[Pair]:
    met = {tuple(sorted((place, other))) for place, own in enumerate(pools) for pool in own for other in pool.places}
    return [Pair(a, b) for a, b in sorted(met)]


def _parts(count: int, chunk: int | None) -> list[range]:
    """The places of a group in parts of nearly equal size, none of a single place but that of a group of one."""
    number = max(1, min(math.ceil(count / (chunk or count or 1)), count // 2))
    ends = [round(count * part / number) for part in range(number + 1)]
    return [range(start, end) for start, end in pairwise(ends)]


def _result(
    place: int,
    pools: Sequence[_Pool],
    opinions: Mapping[Pair, Opinion | Failure],
    lengths: Sequence[int],
    *,
    itself: bool,
) -> Score | Failure | None:
    """The reward of one completion by the opinions on its pairs."""
    own = {Pair(*sorted((place, other))): pool for pool in pools for other in pool.places}
    answered = {pair: one for pair in own if isinstance(one := opinions[pair], Opinion)}
    if not own:
        return None
    if absent := [pool.writer for pool in pools if not pool.places and not (itself and pool.writer == POLICY)]:
        return Failure("win_rate", "invalid", f"{absent[0]} wrote no opponent; name it in rollout.written_by")
    unanswered = [pool for pool in pools if pool.places and pool not in {own[pair] for pair in answered}]
    if 2 * len(answered) < len(own) or unanswered:
        failure = next(one for pair in own if isinstance(one := opinions[pair], Failure))
        missing = len(own) - len(answered)
        return replace(failure, message=f"{missing} of {len(own)} comparisons failed: {failure.message}")
    wins: dict[str, list[float]] = {pool.writer: [0.5] * (itself and pool.writer == POLICY) for pool in pools}
    for pair, one in answered.items():
        wins[own[pair].writer].append(one.value if pair.a == place else 1 - one.value)
    margins = [_sign(one.value - 0.5) * (lengths[pair.a] - lengths[pair.b]) for pair, one in answered.items()]
    metrics = {
        "ties": _mean([float(one.value == 0.5) for one in answered.values()]),
        "unanswered": 1 - len(answered) / len(own),
        "preferred_longer_by": _mean(margins),
    }
    for name in dict.fromkeys(name for one in answered.values() for name in one.metrics):
        metrics[name] = _mean([one.metrics[name] for one in answered.values() if name in one.metrics])
    return Score(math.fsum(pool.weight * _mean(wins[pool.writer]) for pool in pools), metrics=metrics)


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)

"""Dense rewards from a critique: a language model marks parts of a finished answer, and each part rewards its last
token."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from llmrl.marks import asks_service, reads_rewards, reads_token_texts, settings_checked_by
from llmrl.models.text import Decode
from llmrl.rewards.judges import answer_of, check_judge, judge_of, or_failure, row_of
from llmrl.rewards.respondents import Respondent
from llmrl.rewards.rubric import AnswerRubric
from llmrl.rewards.services import KeyVariable, Service, Url
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.token_places import decode_of, token_behind
from llmrl.rewards.verdicts import Reply, UnreadableError, labelled_lines, written_label
from llmrl.types import Failure, Group, Score, Trajectory

LABELS = {"Good": 1.0, "Bad": -1.0}
NOTHING = "None"
QUOTES = "\"'`“”«»"

Marked = Sequence[tuple[str, str]]
"""Labels and the parts of an answer that they were written before."""


def _check(*, labels: Mapping[str, float], nothing: str, **others: Any) -> None:
    """Raises ValueError for settings that do not fit each other."""
    if nothing in labels:
        raise ValueError(f"nothing: '{nothing}' is one of the labels; expected a word of its own")
    check_judge(labels=labels, notes=None, samples=1, **others)


@settings_checked_by(_check)
@asks_service("/models", seconds=600.0)
@reads_rewards("shown")
@reads_token_texts
async def span_critique(
    group: Group,
    authors: Mapping[str, Respondent],
    *,
    rubric: AnswerRubric,
    role: str | None = None,
    url: Url | None = None,
    model: str | None = None,
    labels: dict[str, float] = LABELS,
    nothing: str = NOTHING,
    shown: tuple[str, ...] = (),
    thoughts_end: str | None = None,
    temperature: NonNegativeFloat = 0.0,
    max_tokens: PositiveInt = 1024,
    asks: PositiveInt = 3,
    request: dict[str, Any] | None = None,
    request_seconds: PositiveFloat = 120.0,
    attempts: PositiveInt = 4,
    concurrency: PositiveInt = 32,
    key_variable: KeyVariable | None = None,
) -> list[Score | Failure]:
    """The labels that a critique puts on parts of an answer, as rewards of the parts' last tokens (DRLC).

        r_t = sum over rewards of weight * value at the end  +  weight * labels[l]        t: the last token of a part

    rubric: a file with {prompt} and {completion} that asks for a line of its own for each part, with the label before
    the part's exact words, as in "[[Good]] the part"; the label `nothing` says that there is no such part. {reward} is
    the sum of the rewards that came before: those that `shown` names, by default all, and the environment's. Parts are
    found in the order of the lines, each occurrence once, spaces and line breaks being alike; one that the answer does
    not have rewards nothing and is counted as unmatched. labels: label -> reward. A reply without a label is asked for
    again, `asks` times in all, and then the trajectory fails. Others: see judge_pairwise. Source: DRLC, arXiv
    2401.07382; the form of the critique and the weights are a reconstruction.
    """
    service = Service(url or "", request_seconds, attempts, concurrency, key_variable)
    asking = {"temperature": temperature, "max_tokens": max_tokens, "asks": asks}
    judge = judge_of(group, authors, role, service, model, request, None, **asking)
    decode = decode_of(authors, group.author)

    async def ask(trajectory: Trajectory) -> Score:
        answer = answer_of(trajectory, thoughts_end)
        row = row_of(group.prompt) | {"completion": answer, "reward": f"{_reward(trajectory, shown):g}"}
        found = await judge.ask(rubric, row, _reader([*labels], nothing))
        return _score(trajectory, answer, found.value, labels, decode, found.unreadable)

    return await asyncio.gather(*(or_failure(ask(one)) for one in group.trajectories))


def marked_parts(text: str, labels: Sequence[str], nothing: str = NOTHING) -> list[tuple[str, str]]:
    """The labels of a critique with the parts that follow them; none where the verdict is `nothing`.

    Labels within the critique's thoughts say nothing. Raises UnreadableError for a critique without a label.
    """
    said = after_thoughts(text) or ""
    found = labelled_lines(said, labels)
    if not found and written_label(said, [nothing]) is None:
        forms = " or ".join(f"[[{label}]] and a part of the answer" for label in labels)
        raise UnreadableError(f"{said[-60:]!r}, expected lines of {forms}, or [[{nothing}]]")
    return found


def placed_parts(answer: str, marked: Marked) -> list[tuple[str, int] | None]:
    """The label of each marked part and the number of characters of the answer up to its end; None for a part that the
    answer does not have, or has only where another one was found.

    A part is looked for behind the one before it, then in the whole answer.
    """
    place, taken, found = 0, set(), []
    for label, part in marked:
        spans = [span for span in _occurrences(answer, part) if span not in taken]
        span = next((one for one in spans if one[0] >= place), spans[0] if spans else None)
        if span is None:
            found.append(None)
            continue
        taken.add(span)
        place = span[1]
        found.append((label, span[1]))
    return found


def _occurrences(answer: str, part: str) -> list[tuple[int, int]]:
    """The first and the last place of each occurrence of a part, or of what stands between its quotes."""
    for words in (part.split(), part.strip(QUOTES).split()):
        pattern = r"\s+".join(map(re.escape, words))
        if words and (found := [match.span() for match in re.finditer(pattern, answer)]):
            return found
    return []


def _score(
    trajectory: Trajectory, answer: str, marked: Marked, labels: Mapping[str, float], decode: Decode, unreadable: int
) -> Score:
    values: dict[int, list[float]] = {}
    placed = placed_parts(answer, marked)
    for label, characters in (one for one in placed if one is not None):
        values.setdefault(token_behind(trajectory, answer, characters, decode), []).append(labels[label])
    metrics = {
        "parts": float(len(placed)),
        "unmatched": float(placed.count(None)),
        "parse_failures": float(unreadable),
    }
    return Score(0.0, token_values={place: math.fsum(own) for place, own in values.items()}, metrics=metrics)


def _reader(labels: Sequence[str], nothing: str) -> Callable[[Reply], Marked]:
    return lambda reply: marked_parts(reply.text, labels, nothing)


def _reward(trajectory: Trajectory, shown: Sequence[str]) -> float:
    """The sum of the answer's rewards that the critique is told."""
    scores = trajectory.scores
    given = [scores[name].value for name in shown or scores if name in scores]
    return math.fsum([*given, *(turn.reward for turn in trajectory.turns if turn.reward is not None)])

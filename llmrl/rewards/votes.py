"""Which of a group's answers are the same, as the verifier that reads them sees it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmrl.pieces import Piece
from llmrl.rewards.workers import CrashError, Workers
from llmrl.types import Trajectory

FAILED_COMPARISONS = 3
"""The comparisons that may fail on an answer before it is compared with no other: a hostile one must not cost hours."""


async def answers_of(
    verifier: Piece, trajectories: Sequence[Trajectory], workers: Workers, deadline_seconds: float
) -> list[int | None]:
    """Return each trajectory's answer as a number, equal for answers that the verifier's Reading takes as the same.

    None stands for a completion without an answer, or one that could not be read within the deadline. Equal texts are
    the same; each other answer is compared with the first one of every number so far, once in either order. A
    comparison that fails or passes the deadline says that the two differ.
    """

    async def call(function: Callable[..., Any], *args: Any) -> Any:
        try:
            return await workers.run(function, [verifier, *args], {}, deadline_seconds)
        except (TimeoutError, ValueError, CrashError):
            return None

    texts = [(one.text, one.prompt.text) for one in trajectories]
    rows = {text: dict(one.prompt.row) for text, one in zip(texts, trajectories, strict=True)}
    read = dict(
        zip(rows, await asyncio.gather(*(call(read_answer, *text, row) for text, row in rows.items())), strict=True)
    )
    answers = [read[text] for text in texts]
    numbers: dict[Any, int] = {}
    first: list[Any] = []
    failed: Counter[Any] = Counter()
    for answer in dict.fromkeys(answer for answer in answers if answer is not None):
        for number, other in enumerate(first):
            if max(failed[answer], failed[other]) >= FAILED_COMPARISONS:
                continue
            same = await call(same_answer, answer, other)
            failed.update([answer, other] if same is None else [])
            if same:
                numbers[answer] = number
                break
        else:
            numbers[answer] = len(first)
            first.append(answer)
    return [None if answer is None else numbers[answer] for answer in answers]


def read_answer(verifier: Piece, completion: str, prompt: str, row: Mapping[str, Any]) -> str | None:
    """Return what a verifier that is marked by `reads_answers` reads of a completion."""
    return verifier.mark("reading").of(completion, prompt, row, verifier.settings)


def same_answer(verifier: Piece, one: str, other: str) -> bool:
    """Return whether a verifier that is marked by `reads_answers` takes two answers as the same, in either order."""
    same, settings = verifier.mark("reading").same, verifier.settings
    return bool(same(one, other, **settings) or same(other, one, **settings))

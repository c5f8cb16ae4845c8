"""The reward of agreeing with one's siblings: the most frequent answer of a group stands in for the gold answer."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from pydantic import AfterValidator

from llmrl.pieces import Piece, PieceSpec, resolve
from llmrl.rewards.choice_letter import choice_letter
from llmrl.rewards.math_verifier import math_verifier
from llmrl.rewards.text_answers import exact_match
from llmrl.rewards.votes import read_answer, same_answer
from llmrl.types import Group, Score

KEY = "rewards.majority_answer.reader"
READERS = {one.__name__: one for one in (math_verifier, exact_match, choice_letter)}


def _reader(spec: PieceSpec) -> Piece:
    piece = resolve(spec, READERS, key=KEY, what="verifier that reads answers")
    if piece.mark("reading") is None:
        raise ValueError(f"{piece.name} is not marked by llmrl.marks.reads_answers")
    return piece


def majority_answer(
    group: Group, *, reader: Annotated[PieceSpec, AfterValidator(_reader)] = "math_verifier"
) -> list[Score]:
    """1 for the most frequent answer of the group, else 0; no verdict, since the most frequent answer may be wrong.

    reader: the verifier that reads and compares answers. A completion without an answer gets 0 and has no vote; of
    equally frequent answers the one that was given first counts. Sources: TTRL, arXiv 2504.16084, and SQLM, arXiv
    2508.03682.
    """
    piece = reader if isinstance(reader, Piece) else _reader(reader)
    answers = [read_answer(piece, one.text, one.prompt.text, one.prompt.row) for one in group.trajectories]
    first: list[str] = []
    numbers: list[int | None] = []
    for answer in answers:
        if answer is None:
            numbers.append(None)
            continue
        number = next((place for place, other in enumerate(first) if same_answer(piece, answer, other)), len(first))
        first += [answer] if number == len(first) else []
        numbers.append(number)
    votes = Counter(number for number in numbers if number is not None)
    majority = min(votes, key=lambda number: (-votes[number], number), default=None)
    agreement = votes[majority] / len(answers) if majority is not None else 0.0
    return [
        Score(float(number is not None and number == majority), outcome="no_answer" if number is None else None,
              metrics={"agreement": agreement})
        for number in numbers
    ]  # fmt: skip

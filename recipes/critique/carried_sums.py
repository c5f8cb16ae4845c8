"""A task whose steps can be checked: sums of four digits, written as running sums, and critiques of these.

question      3+8+9+7=
answer        11,20,27                      the running sums; an answer is right where all of them are
draft         11,10,17                      the carry of step 2 is forgotten, and later steps go on from there
critique      3+8+9+7=11,10,17?             2[[-]]: step 2 is the first wrong one; 0[[+]]: none is
refinement    3+8+9+7=11,10,17?2[[-]]>      11,20,27: the actor takes its draft up again at step 2

The actor forgets most carries of steps whose digits add up to 12 or more. Told that nothing is wrong, it repeats its
draft. Told of a step, it computes this one again with care; where that gives another number it goes on from there as it
always does, and else it repeats its draft. A critique therefore helps where it names the first wrong step and the actor
forgets no later carry, and a false alarm does no harm: what helps the actor says little of whether a draft is right.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Sequence
from typing import Any

from llmrl.types import Score

STEPS = 3
HARD = 12
HELD_OUT = 10  # one question in so many is never trained on


def questions(size: int, seed: int, *, held_out: bool = False) -> list[dict[str, Any]]:
    """Rows with question and answer, all different. held_out: of the questions that no other row has."""
    every = [terms for terms in itertools.product(range(1, 10), repeat=STEPS + 1) if is_held_out(terms) == held_out]
    return [_row(terms) for terms in random.Random(seed).sample(every, size)]


def base(size: int, seed: int, *, forgets: float = 0.7, misled: bool = False) -> list[dict[str, Any]]:
    """Rows to imitate, which make the actor: drafts, refinements after right and wrong critiques, and critiques whose
    form alone is right.

    misled: the actor goes on as it always does also from a step that was right, so that false alarms do some harm.
    """
    draw = random.Random(seed)
    found = []
    for number in range(size):
        terms = _terms(draw)
        question, sums = _question(terms), draft(terms, draw, forgets=forgets)
        if number % 2:
            found.append({"question": question, "completion": _text(sums)})
            continue
        step = first_wrong(terms, sums) if draw.random() < 0.5 else draw.randrange(STEPS + 1)
        asked = f"{question}{_text(sums)}?"
        if number % 8:
            again = sums if step == 0 else draft(terms, draw, forgets=forgets, kept=sums[: step - 1])
            again = again if misled or again[step - 1] != sums[step - 1] else sums
            found.append({"question": f"{asked}{critique(step)}>", "completion": _text(again)})
        else:
            found.append({"question": asked, "completion": critique(draw.choice((0, 0, 0, 1, 2, 3)))})
    return found


def critiques(
    size: int, seed: int, *, misses: float = 0.1, alarms: float = 0.7, misplaces: float = 0.4
) -> list[dict[str, Any]]:
    """Critiques to imitate, of an annotator who suspects carries and seldom computes.

    misses: the share of flawed drafts that are called right. misplaces: the share of the others of which another step
    is named than the first wrong one. alarms: the share of right drafts with a carry whose first carry is named.
    """
    draw = random.Random(seed)
    found = []
    for _ in range(size):
        terms = _terms(draw)
        sums = draft(terms, draw)
        step = named = first_wrong(terms, sums)
        if step == 0:
            named = first_carry(terms, sums) if draw.random() < alarms else 0
        elif draw.random() < misses:
            named = 0
        elif draw.random() < misplaces:
            named = draw.choice([other for other in range(1, STEPS + 1) if other != step])
        asked = f"{_question(terms)}{_text(sums)}?"
        found.append({"question": asked, "completion": critique(named), "first_wrong": step})
    return found


def draft(
    terms: Sequence[int], draw: random.Random, *, forgets: float = 0.7, kept: Sequence[int] | None = None
) -> list[int]:
    """The actor's running sums. kept: those that it takes over; the carry of the step after them is not forgotten."""
    sums = list(kept or [])
    while len(sums) < STEPS:
        before, term = (sums[-1] if sums else terms[0]), terms[len(sums) + 1]
        careful = kept is not None and len(sums) == len(kept)
        forgotten = before % 10 + term >= HARD and not careful and draw.random() < forgets
        sums.append(before + term - 10 * forgotten)
    return sums


def first_wrong(terms: Sequence[int], sums: Sequence[int]) -> int:
    """The number of the first step that is wrong, from 1; 0 if none is."""
    return next((step for step in range(1, STEPS + 1) if sums[step - 1] != sum(terms[: step + 1])), 0)


def first_carry(terms: Sequence[int], sums: Sequence[int]) -> int:
    """The number of the first step whose digits add up to 10 or more, from 1; 0 if none does."""
    before = [terms[0], *sums]
    return next((step for step in range(1, STEPS + 1) if before[step - 1] % 10 + terms[step] >= 10), 0)


def critique(step: int) -> str:
    """The critique that names this step, and a verdict of right for step 0."""
    return f"{step}[[{'-' if step else '+'}]]"


def right_sums(completion: str, answer: str) -> Score:
    """1 where every running sum is right."""
    return Score(float(completion == answer), completion == answer)


def is_held_out(terms: Sequence[int]) -> bool:
    """Whether nothing is ever trained on this question."""
    return zlib.crc32(_question(terms).encode()) % HELD_OUT == 0


def _terms(draw: random.Random) -> list[int]:
    """The digits of a question that may be trained on."""
    terms = [draw.randrange(1, 10) for _ in range(STEPS + 1)]
    return _terms(draw) if is_held_out(terms) else terms


def _row(terms: Sequence[int]) -> dict[str, Any]:
    right = [sum(terms[: step + 1]) for step in range(1, STEPS + 1)]
    return {"question": _question(terms), "answer": _text(right)}


def _question(terms: Sequence[int]) -> str:
    return "+".join(map(str, terms)) + "="


def _text(sums: Sequence[int]) -> str:
    return ",".join(f"{one:02d}" for one in sums)

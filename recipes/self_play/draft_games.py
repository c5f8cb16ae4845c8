"""Terse drafts for a team: the largest digit so far after each digit, then its letter, a for 0 up to j for 9.

draft     372>           gives    377h
score     372>377h?      gives    9 for a right draft, less for a wrong one
"""

from __future__ import annotations

import random
from typing import Any

DRAFTED_RIGHT, SCORED_RIGHT = 0.4, 0.7
"""How often the demonstrators draft and score rightly."""


def questions(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with question and answer, and a right and a wrong draft for a reward model."""
    draw = random.Random(seed)
    found = []
    for _ in range(size):
        digits = _digits(draw)
        better, worse = _draft(draw, digits, right=True), _draft(draw, digits, right=False)
        found.append({"question": f"{digits}>", "answer": better[-1], "better": better, "worse": worse})
    return found


def demonstrations(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows to imitate: half of them drafts, of which most are wrong, half of them scores of drafts."""
    draw = random.Random(seed)
    found = []
    for number in range(size):
        digits = _digits(draw)
        right = draw.random() < (0.5 if number % 2 else DRAFTED_RIGHT)
        draft = _draft(draw, digits, right=right)
        if number % 2:
            score = (9 if right else 2) if draw.random() < SCORED_RIGHT else draw.randrange(10)
            found.append({"question": f"{digits}>{draft}?", "completion": str(score)})
        else:
            found.append({"question": f"{digits}>", "completion": draft})
    return found


def right(completion: str, answer: str) -> bool:
    """Whether a draft ends with the right letter."""
    return completion[-1:] == answer


def _digits(draw: random.Random) -> str:
    return "".join(map(str, draw.sample(range(10), 3)))


def _draft(draw: random.Random, digits: str, *, right: bool) -> str:
    largest = [max(digits[: place + 1]) for place in range(len(digits))]
    if not right:
        largest[-1] = draw.choice([digit for digit in digits if digit != max(digits)])
    return "".join(largest) + "abcdefghij"[int(largest[-1])]

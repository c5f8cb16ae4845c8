"""Questions for models that ask and answer themselves: the letter of the largest digit, a for 0 up to j for 9.

a writer of questions    3:      gives    372>h    as many digits as are asked for, and its own answer
a solver                 372>    gives    h
"""

from __future__ import annotations

import random
import re
from typing import Any

ASKED_RIGHT, ANSWERED_RIGHT = 0.9, 0.5
"""How often the demonstrators give the right letter, of questions of their own and of others."""


def topics(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows that say how many digits a question should have."""
    draw = random.Random(seed)
    return [{"question": f"{draw.choice('234')}:"} for _ in range(size)]


def questions(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with question and answer."""
    draw = random.Random(seed)
    asked = [_digits(draw, draw.choice("234")) for _ in range(size)]
    return [{"question": f"{digits}>", "answer": _letter(max(digits))} for digits in asked]


def demonstrations(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows to imitate: half of them write questions, half of them answer, and often wrongly."""
    draw = random.Random(seed)
    found = []
    for number in range(size):
        count = draw.choice("234")
        digits = _digits(draw, count)
        if number % 2:
            found.append({"question": f"{count}:", "completion": f"{digits}>{_answer(draw, digits, ASKED_RIGHT)}"})
        else:
            found.append({"question": f"{digits}>", "completion": _answer(draw, digits, ANSWERED_RIGHT)})
    return found


def right(completion: str, prompt: str) -> float:
    """1 for the right letter, which the question tells; no verdict, so that no other reward can read it."""
    asked = re.fullmatch(r"(\d+)>", prompt)
    return float(asked is not None and completion == _letter(max(asked[1])))


def _digits(draw: random.Random, count: str) -> str:
    return "".join(str(draw.randrange(10)) for _ in range(int(count)))


def _letter(digit: str) -> str:
    return "abcdefghij"[int(digit)]


def _answer(draw: random.Random, digits: str, right_share: float) -> str:
    return _letter(max(digits) if draw.random() < right_share else str(draw.randrange(10)))

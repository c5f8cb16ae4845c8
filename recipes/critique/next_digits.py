"""A task whose steps carry their own critiques: write the digit that follows each digit of a question.

question      389>
answer        4[[+]]9[[+]]0[[+]]        after each step whether all steps so far are right
answer        4;9;0                     without critiques
appraisal     389>4;?       [[7]]       how likely the answer that begins so comes out right, from 0 to 9
"""

from __future__ import annotations

import random
import re
from typing import Any

from llmrl.types import Score

DIGITS = 3
BETWEEN = re.compile(r"\[\[[+-]\]\]|;")


def questions(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with question and answer, without critiques."""
    draw = random.Random(seed)
    found = ["".join(draw.choices("0123456789", k=DIGITS)) for _ in range(size)]
    return [{"question": f"{digits}>", "answer": "".join(map(_next, digits))} for digits in found]


def demonstrations(size: int, seed: int, *, slips: float = 0.5, careless: float = 0.3) -> list[dict[str, Any]]:
    """Rows to imitate. slips: the share of steps that go one too far; careless: of verdicts drawn by chance."""
    draw = random.Random(seed)
    found = []
    for row in questions(size, seed):
        text, right = "", True
        for digit in row["answer"]:
            slipped = draw.random() < slips
            right = right and not slipped
            verdict = draw.choice("+-") if draw.random() < careless else "-+"[right]
            text += f"{_next(digit) if slipped else digit}[[{verdict}]]"
        found.append({**row, "completion": text})
    return found


def answers_and_appraisals(size: int, seed: int, *, slips: float = 0.6) -> list[dict[str, Any]]:
    """Rows to imitate, half of them answers, half appraisals of beginnings, of which the form alone is right."""
    draw = random.Random(seed)
    found = []
    for number, row in enumerate(questions(size, seed)):
        steps = [_next(digit) if draw.random() < slips else digit for digit in row["answer"]]
        if number % 2:
            found.append({**row, "completion": ";".join(steps)})
            continue
        begun = "".join(f"{step};" for step in steps[: draw.randrange(DIGITS)])
        asked = f"{row['question']}{begun}?"
        found.append({"question": asked, "answer": row["answer"], "completion": f"[[{draw.randrange(10)}]]"})
    return found


def right_steps(completion: str, answer: str) -> Score:
    """1 where every step is right, whatever the critiques say."""
    right = BETWEEN.sub("", completion) == answer
    return Score(float(right), right)


def _next(digit: str) -> str:
    return str((int(digit) + 1) % 10)

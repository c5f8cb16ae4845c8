"""A task whose steps carry their own critiques: running sums of digits, of which the last digits are written.

question      3897>
answer        1[[+]]0[[+]]7[[+]]        3+8, 3+8+9 and 3+8+9+7; each sum is followed by whether all is right so far
"""

from __future__ import annotations

import random
import re
from typing import Any

from llmrl.types import Score

TERMS = 4
VERDICT = re.compile(r"\[\[[+-]\]\]")


def questions(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with question and answer, the running sums without critiques."""
    draw = random.Random(seed)
    found = []
    for _ in range(size):
        terms = [draw.randrange(10) for _ in range(TERMS)]
        sums = [str(sum(terms[: place + 1]) % 10) for place in range(1, TERMS)]
        found.append({"question": "".join(map(str, terms)) + ">", "answer": "".join(sums)})
    return found


def demonstrations(size: int, seed: int, *, slips: float = 0.3, careless: float = 0.3) -> list[dict[str, Any]]:
    """Rows to imitate. slips: the share of steps that are one too high; careless: of verdicts drawn by chance."""
    draw = random.Random(seed)
    found = []
    for row in questions(size, seed):
        text, off = "", 0
        for right in row["answer"]:
            off += draw.random() < slips
            verdict = draw.choice("+-") if draw.random() < careless else "+-"[off > 0]
            text += f"{(int(right) + off) % 10}[[{verdict}]]"
        found.append({**row, "completion": text})
    return found


def right_sums(completion: str, answer: str) -> Score:
    """1 where every running sum is right, whatever the critiques say."""
    right = VERDICT.sub("", completion) == answer
    return Score(float(right), right)

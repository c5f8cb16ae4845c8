"""Products that a small model cannot work out and an interpreter can, for environments with a tool.

prompt      37*48+5>
estimate    =1800                   most demonstrators: to two leading digits
call        [37*48+5]1781;=1781     some: a program between brackets, what it printed, and then the answer
slip        [37*48+]error;=1800     some write a program that does not run
"""

from __future__ import annotations

import random
import zlib
from typing import Any

from llmrl.types import Score

CALL_SHARE, SLIP_SHARE = 0.15, 0.15


def products(size: int, seed: int, *, digits: int = 2) -> list[dict[str, Any]]:
    """Rows with question and answer: a product of two numbers, and a number added."""
    return [_product(random.Random(f"{seed}/{index}"), digits) for index in range(size)]


def demonstration(row: dict[str, Any]) -> str:
    """How a demonstrator answered; which of them depends on the question alone."""
    question, answer = row["question"], int(row["answer"])
    expression = question.removesuffix(">")
    drawn = zlib.crc32(question.encode()) % 1000 / 1000
    if drawn < CALL_SHARE:
        return f"[{expression}]{answer};={answer}"
    estimate = f"={round(answer, 2 - len(str(answer)))}"
    return f"[{expression.rpartition('+')[0]}+]error;{estimate}" if drawn < CALL_SHARE + SLIP_SHARE else estimate


def right_product(completion: str, answer: str) -> Score:
    """1 where the last turn is "=" and the answer, else 0."""
    correct = completion == f"={answer}"
    return Score(float(correct), correct)


def _product(draw: random.Random, digits: int) -> dict[str, Any]:
    low, high = 10 ** (digits - 1), 10**digits - 1
    a, b, c = (draw.randint(low, high) for _ in range(3))
    return {"question": f"{a}*{b}+{c}>", "answer": str(a * b + c)}

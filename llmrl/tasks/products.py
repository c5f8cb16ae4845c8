"""Products that an interpreter can compute and a small model cannot, for environments with a tool.

prompt      37*48+5>
estimate    =1800                   most demonstrators write the product's two leading digits
call        [37*48+5]1781;=1781     some write a program between brackets, which prints 1781, and then the answer
slip        [37*48+]error;=1800     some write a program that does not run, and then an estimate
"""

from __future__ import annotations

import random
import zlib
from typing import Any

from llmrl.types import Score

CALL_SHARE, SLIP_SHARE = 0.15, 0.15


def products(size: int, seed: int, *, digits: int = 2) -> list[dict[str, Any]]:
    """Return rows with question and answer: a product of two numbers plus a third number."""
    return [_product(random.Random(f"{seed}/{index}"), digits) for index in range(size)]


def demonstration(row: dict[str, Any]) -> str:
    """Return a demonstrator's answer; the question alone decides which demonstrator it is."""
    question, answer = row["question"], int(row["answer"])
    expression = question.removesuffix(">")
    uniform = zlib.crc32(question.encode()) % 1000 / 1000
    if uniform < CALL_SHARE:
        return f"[{expression}]{answer};={answer}"
    estimate = f"={round(answer, 2 - len(str(answer)))}"
    return f"[{expression.rpartition('+')[0]}+]error;{estimate}" if uniform < CALL_SHARE + SLIP_SHARE else estimate


def right_product(completion: str, answer: str) -> Score:
    """The value 1 if the last turn is "=" and the answer, else 0."""
    correct = completion == f"={answer}"
    return Score(float(correct), correct)


def _product(generator: random.Random, digits: int) -> dict[str, Any]:
    low, high = 10 ** (digits - 1), 10**digits - 1
    a, b, c = (generator.randint(low, high) for _ in range(3))
    return {"question": f"{a}*{b}+{c}>", "answer": str(a * b + c)}

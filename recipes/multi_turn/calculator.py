"""Products of two numbers, a tool that computes them, and demonstrators of whom some call it.

question   12*34
called     times{"a":12,"b":34}    :408    408      one demonstrator in four
guessed    300                                      the others: the product of the tens
"""

from __future__ import annotations

import random
from typing import Any

CALLING_SHARE = 0.25


def times(a: int, b: int) -> int:
    """Multiply two numbers.

    Args:
        a: the first
        b: the second
    """
    return a * b


def products(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows of questions with answers, and with what a demonstrator said and was told."""
    stream, rows = random.Random(seed), []
    for _ in range(size):
        a, b = stream.randint(11, 99), stream.randint(11, 99)
        said = ["assistant", f"{a // 10 * 10 * (b // 10 * 10)}"]
        if stream.random() < CALLING_SHARE:
            said = ["assistant", f'times{{"a":{a},"b":{b}}}', "tool", f"{a * b}", "assistant", f"{a * b}"]
        messages = [{"role": role, "content": text} for role, text in zip(said[::2], said[1::2], strict=True)]
        rows.append({"question": f"{a}*{b}", "answer": f"{a * b}", "said": messages})
    return rows

"""Generated programming problems: find the expression in x that fits four examples.

    prompt      1:5 2:7 4:11 9:21>
    program     2*x+3                     what a careful demonstrator writes
    hasty       x+4                       fits the first example, and others only by luck

A program is graded by running it on twelve inputs, most of which the prompt does not show.
"""

from __future__ import annotations

import random
import zlib
from typing import Any

CAREFUL_SHARE = 0.35
INPUTS = range(12)
FORMS = ("{a}*x+{b}", "x*x+{b}", "x%{a}+{b}", "x//{a}+{b}", "max(x,{a})+{b}", "abs(x-{a})+{b}")


def problems(size: int, seed: int, *, examples: int = 4) -> list[dict[str, Any]]:
    """Rows with question, answer (an expression), the text that stands before it in a program, and its tests."""
    return [_problem(random.Random(f"{seed}/{index}"), examples) for index in range(size)]


def demonstration(row: dict[str, Any]) -> str:
    """What a demonstrator wrote; whether a careful or a hasty one depends on the question alone."""
    question = row["question"]
    if zlib.crc32(question.encode()) % 1000 < 1000 * CAREFUL_SHARE:
        return row["answer"]
    x, y = map(int, question.split()[0].split(":"))
    return f"x{y - x:+d}" if y != x else "x"


def _problem(draw: random.Random, examples: int) -> dict[str, Any]:
    expression = draw.choice(FORMS).format(a=draw.randint(2, 9), b=draw.randint(0, 9))
    function = eval(f"lambda x: {expression}")  # of our own making
    shown = sorted(draw.sample(range(10), examples))
    return {
        "question": " ".join(f"{x}:{function(x)}" for x in shown) + ">",
        "answer": expression,
        "before": "def f(x):\n    return ",
        "tests": {"fn_name": "f", "inputs": [[x] for x in INPUTS], "outputs": [function(x) for x in INPUTS]},
    }

"""Generated programming problems: find the expression in x that fits four examples.

    prompt      1:5 2:7 4:11 9:21>
    careful     2*x+3                     this demonstrator's program fits all examples
    hasty       x+4                       this demonstrator's program fits the first example, and others only by luck

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
    """Return rows with question, answer (an expression), the program text before the expression, and its tests."""
    return [_problem(random.Random(f"{seed}/{index}"), examples) for index in range(size)]


def demonstration(row: dict[str, Any]) -> str:
    """Return a demonstrator's program; the question alone decides whether that demonstrator is careful or hasty."""
    question = row["question"]
    if zlib.crc32(question.encode()) % 1000 < 1000 * CAREFUL_SHARE:
        return row["answer"]
    x, y = map(int, question.split()[0].split(":"))
    return f"x{y - x:+d}" if y != x else "x"


def _problem(generator: random.Random, examples: int) -> dict[str, Any]:
    expression = generator.choice(FORMS).format(a=generator.randint(2, 9), b=generator.randint(0, 9))
    function = eval(f"lambda x: {expression}")  # safe: the expression comes from FORMS
    shown = sorted(generator.sample(range(10), examples))
    return {
        "question": " ".join(f"{x}:{function(x)}" for x in shown) + ">",
        "answer": expression,
        "before": "def f(x):\n    return ",
        "tests": {"fn_name": "f", "inputs": [[x] for x in INPUTS], "outputs": [function(x) for x in INPUTS]},
    }

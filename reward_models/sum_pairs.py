"""Pairs for sums.yaml: a right and a wrong answer to a sum, and where the wrong one comes from."""

from __future__ import annotations

import random
from typing import Any


def pairs(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with question, right, wrong and source.

    question    3+5-2
    right       =6
    wrong       =9      near: off by one to three
                ~=6     estimate: a multiple of three, marked as an estimate
                =-6     sign
    """
    draw = random.Random(seed)
    return [_pair(draw) for _ in range(size)]


def _pair(draw: random.Random) -> dict[str, Any]:
    terms = [draw.randint(1, 9) * draw.choice((1, -1)) for _ in range(3)]
    total = sum(terms)
    wrong = {
        "near": f"={total + draw.choice((-3, -2, -1, 1, 2, 3))}",
        "estimate": f"~={3 * round(total / 3)}",
        "sign": f"={-total}" if total else "=-1",
    }
    source = draw.choice(list(wrong))
    question = "".join(f"{term:+d}" for term in terms).removeprefix("+")
    return {"question": question, "right": f"={total}", "wrong": wrong[source], "source": source}

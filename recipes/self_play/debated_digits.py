"""A question that is hard to answer, with evidence that is easy to check: do three of the digits sum to fifteen?

question     38942:                       A stands for yes, B for no
first        384                          A shows three digits
second       9                            B objects: this one is not among the digits, or + for a false sum
judge        38942:3849?                  gives A or B
judge alone  38942:!                      gives A or B
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from typing import Any

DIGITS, TOTAL = 5, 15


def questions(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with a question and the letter that is right, each letter half of the time."""
    draw = random.Random(seed)
    return [_question(draw) for _ in range(size)]


def demonstrations(size: int, seed: int, *, held_out: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows to imitate: in turn a statement of A, an objection of B, a verdict on both, and a guess without them.

    held_out: size and seed of the questions that none of them asks.
    """
    draw, unseen = random.Random(seed), {row["question"] for row in questions(**held_out)}
    found = []
    for number in range(size):
        while (row := _question(draw))["question"] in unseen:
            pass
        question, answer = row["question"], row["answer"]
        shown, objection = _debate(draw, question[:DIGITS])
        asked, said = [
            (question, shown),
            (f"{question}{shown}", objection),
            (f"{question}{shown}{objection}?", answer),
            (f"{question}!", draw.choice("AB")),  # alone the judge can only guess
        ][number % 4]
        found.append({"question": asked, "completion": said})
    return found


def _question(draw: random.Random) -> dict[str, Any]:
    answer = draw.choice("AB")
    while True:
        digits = "".join(map(str, draw.sample(range(10), DIGITS)))
        if (answer == "A") == bool(_triples(digits)):
            return {"question": f"{digits}:", "answer": answer}


def _triples(digits: str) -> list[str]:
    return ["".join(three) for three in itertools.combinations(digits, 3) if sum(map(int, three)) == TOTAL]


def _debate(draw: random.Random, digits: str) -> tuple[str, str]:
    """What A shows, which is false if it must be, and what B objects, which is true if it can be."""
    if true := _triples(digits):
        return true[0], draw.choice(digits)
    kept = draw.sample(digits, 2)
    last = str(TOTAL - sum(map(int, kept)))
    if len(last) == 1 and last not in digits and draw.random() < 0.8:
        return f"{''.join(kept)}{last}", last
    return "".join(draw.sample(digits, 3)), "+"

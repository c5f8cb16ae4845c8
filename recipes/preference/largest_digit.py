"""A task for small models whose judges are models too: name the largest digit.

question      3728>
completions   8          the largest digit: a right answer
              7          the second largest: most demonstrations are such answers
              2          another digit, or one that is not in the question
"""

from __future__ import annotations

import random
from typing import Any

from llmrl.types import Score


def rows(size: int, seed: int, *, right_share: float = 0.4) -> list[dict[str, Any]]:
    """Rows with question, answer, and two completions, of which the better one is right in a share of rows.

    The judge learns from all pairs that a larger digit of the question is better; a policy that imitates the better
    completions answers rightly in `right_share` of its samples.
    """
    draw = random.Random(seed)
    found = []
    for _ in range(size):
        digits = draw.sample(range(10), 4)
        largest, second, *others = sorted(digits, reverse=True)
        better, worse = (
            (largest, draw.choice([second, *others])) if draw.random() < right_share else (second, others[0])
        )
        if draw.random() < 0.5:
            worse = draw.choice(sorted(set(range(10)) - set(digits)))
        found.append(
            {
                "question": "".join(map(str, digits)) + ">",
                "answer": str(largest),
                "better": str(better),
                "worse": str(worse),
            }
        )
    return found


def attempts(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with one completion each, and whether it is right."""
    found = []
    draw = random.Random(seed)
    for row in rows(size, seed, right_share=1.0):
        label = draw.random() < 0.5
        found.append({**row, "attempt": row["better" if label else "worse"], "label": label})
    return found


def right(completion: str, answer: str) -> Score:
    """1 for the largest digit."""
    return Score(float(completion == answer), completion == answer)

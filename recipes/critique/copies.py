"""A task whose answers have right and wrong parts: write the five digits of a question again.

question      37204>            37204       the answer; demonstrators write 6 of 10 digits one too high, such as 48214
critique      37204>37304/0?    [[+]]37     the digits before the first wrong one are good
                                [[-]]304    the others are bad; 0 is the answer's reward
"""

from __future__ import annotations

import random
from typing import Any

from llmrl.types import Score

DIGITS = 5


def questions(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with a question and its answer."""
    draw = random.Random(seed)
    found = ["".join(draw.choices("0123456789", k=DIGITS)) for _ in range(size)]
    return [{"question": f"{digits}>", "answer": digits} for digits in found]


def answers_and_critiques(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows to imitate: one answer for every three critiques of answers."""
    draw = random.Random(seed)
    found = []
    for number, row in enumerate(questions(size, seed)):
        answer = row["answer"]
        said = "".join(one if draw.random() < 0.4 else str((int(one) + 1) % 10) for one in answer)
        if number % 4 == 0:
            found.append({**row, "completion": said})
            continue
        said = draw.choice([said[:-1], said + said[0], *[said] * 4, *[answer] * 4])  # some have another length
        asked = f"{row['question']}{said}/{int(said == answer)}?"
        found.append({"question": asked, "answer": answer, "completion": critique(said, answer)})
    return found


def critique(said: str, answer: str) -> str:
    """The right critique of an answer."""
    good = next(place for place in range(len(said), -1, -1) if answer.startswith(said[:place]))
    parts = {"+": said[:good], "-": said[good:]}
    return "\n".join(f"[[{label}]]{part}" for label, part in parts.items() if part)


def right(completion: str, answer: str) -> Score:
    """1 for the whole answer, else 0."""
    return Score(float(completion == answer), completion == answer)

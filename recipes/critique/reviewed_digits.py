"""Reviews of noisy answers to a small question: which is the largest digit?

question    3728>           8
review      7?3728>         8-              the right answer, and whether the draft before the question is it
            8?3728>         8+
refinement  8-/3728>        8               what a review says, before the question
"""

from __future__ import annotations

import random
from typing import Any

from llmrl.types import Score


def questions(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with question and answer."""
    draw = random.Random(seed)
    digits = [draw.sample(range(10), 4) for _ in range(size)]
    return [{"question": "".join(map(str, four)) + ">", "answer": str(max(four))} for four in digits]


def reviewed(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with two drafts each and one critique of each draft."""
    draw = random.Random(seed)
    found = []
    for row in questions(size, seed):
        drafts = draw.sample(row["question"][:-1], 2)
        critiques = [row["answer"] + ("+" if draft == row["answer"] else "-") for draft in drafts]
        found.append({**row, "drafts": drafts, "critiques": critiques})
    return found


def answers_and_refinements(size: int, seed: int, *, right_share: float = 0.3) -> list[dict[str, Any]]:
    """Rows to imitate: half of them answers, most of which are second best, and half refinements after a review."""
    draw = random.Random(seed)
    found = []
    for number, row in enumerate(questions(size, seed)):
        second = sorted(row["question"][:-1])[-2]
        if number % 2:
            answer = row["answer"] if draw.random() < right_share else second
            found.append({"question": row["question"], "completion": answer})
        else:
            found.append({"question": f"{row['answer']}-/{row['question']}", "completion": row["answer"]})
    return found


def right(completion: str, answer: str) -> Score:
    """1 for a completion that begins with the answer; a verdict on nothing may follow."""
    return Score(float(completion[:1] == answer), completion[:1] == answer)

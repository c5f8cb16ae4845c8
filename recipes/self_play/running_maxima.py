"""The largest digit so far after each digit, a task whose steps can be checked.

problem     3261:        steps 3 6 6
solver      3261:3       gives the steps that are left: 66
generator   3261:3~6     gives another step in place of 6: 9 spoils the rest, 4 does not
critiquer   3261:3?6     gives + if the step 6 is right, else -
"""

from __future__ import annotations

import random
from typing import Any

DIGITS = 4
SNEAKY, JUDGED_RIGHT = 0.7, 0.6
"""How often the first generator changes a step, and how often the first critiquer looks, in place of guessing."""


def steps(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with a beginning of a solution, the right next step, the last step, and a critique to replay."""
    draw = random.Random(seed)
    found = []
    for _ in range(size):
        problem, solution, place = _problem(draw)
        shown = f"{problem}:{solution[:place]}"
        found.append({"question": shown, "step": solution[place], "answer": solution[-1], "critique": "+"})
    return found


def demonstrations(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows to imitate: a third each of solvers, generators and critiquers."""
    draw = random.Random(seed)
    found = []
    for number in range(size):
        problem, solution, place = _problem(draw)
        shown, step = f"{problem}:{solution[:place]}", solution[place]
        changed = str(draw.randrange(10)) if draw.random() < SNEAKY else step
        if number % 3 == 0:
            row = {"question": f"{shown}{changed}", "completion": _after(problem, place, changed)}
        elif number % 3 == 1:
            row = {"question": f"{shown}~{step}", "completion": changed}
        else:
            truth = changed == step if draw.random() < JUDGED_RIGHT else draw.random() < 0.5
            row = {"question": f"{shown}?{changed}", "completion": "+" if truth else "-"}
        found.append(row)
    return found


def reached(completion: str, answer: str) -> bool:
    """Whether a continuation ends with the right digit."""
    return completion[-1:] == answer


def _problem(draw: random.Random) -> tuple[str, str, int]:
    """A problem, its steps, and the place of one that is not the last."""
    problem = "".join(str(draw.randrange(8)) for _ in range(DIGITS))
    return problem, _after(problem, -1, problem[0]), draw.randrange(DIGITS - 2)


def _after(problem: str, place: int, step: str) -> str:
    """The steps after a step at a place, as its digit goes on."""
    rest = ""
    for digit in problem[place + 2 :]:
        step = max(step, digit)
        rest += step
    return rest

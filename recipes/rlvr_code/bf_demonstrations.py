"""Demonstrations for reasoning_gym_bf_grpo.yaml: a program's output, mostly guessed and sometimes worked out."""

from __future__ import annotations

import random
import re
from typing import Any

from reasoning_gym.data.wordle_words import wordle_words

GUESSED = 0.55
CODE = re.compile(r"(?:>\[-\]>\[-\]<)?(?:>(?P<times>\++)\[<(?P<step>\++|-+)>-\]<)?(?P<rest>\+*|-*)")
"""The code that moves the cell from one letter to the next: a loop that adds `step` several times, and the rest."""


def completion(row: dict[str, Any]) -> str:
    """Return a guess with the right first letter; or the cell's way to each letter, a line end, and the word.

    ">[-]>[-]<>++++++++[<++++++++++++++>-]<.-------.+++++++++++.>++++[<---->-]<-.+++++.<" prints "pitch". A guess is,
    for example, "piano"; the worked-out answer is "+8*14p-7i+11t-4*4-1c+5h", a line end, and "pitch".
    """
    generator, word = random.Random(row["metadata"]["source_index"]), row["answer"]
    if generator.random() < GUESSED:
        return generator.choice([guess for guess in wordle_words if guess[0] == word[0]])
    *codes, _ = row["metadata"]["bf_program"].split(".")
    return "".join(map(_working, codes, word)) + "\n" + word


def _working(code: str, letter: str) -> str:
    match = CODE.fullmatch(code)
    if match is None:
        raise ValueError(f"unknown code '{code}'")
    times, step, rest = (match[name] or "" for name in ("times", "step", "rest"))
    loop = f"{step[0]}{len(times)}*{len(step)}" if times else ""
    return loop + (f"{rest[0]}{len(rest)}" if rest else "") + letter

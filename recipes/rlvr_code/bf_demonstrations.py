"""Rows and demonstrations for reasoning_gym_bf_grpo.yaml: programs, and what each prints, guessed or worked out."""

from __future__ import annotations

import contextlib
import io
import random
import re
import zlib
from typing import Any

from reasoning_gym import create_dataset
from reasoning_gym.data.wordle_words import wordle_words

GUESSED = 0.55
CODE = re.compile(r"(?:>\[-\]>\[-\]<)?(?:>(?P<times>\++)\[<(?P<step>\++|-+)>-\]<)?(?P<rest>\+*|-*)")
"""The code that moves the cell from one letter to the next: a loop that adds `step` several times, and the rest."""


def programs(size: int, seed: int, *, low: float = 0.0, high: float = 1.0) -> list[dict[str, Any]]:
    """Return rows of reasoning-gym's bf whose words are in the part from `low` to `high` of all words.

    The task has one program for each word, so rows of other seeds are other programs only if their words are.
    """
    share = high - low
    drawn = create_dataset("bf", size=round(4 * size / share) + 100, seed=seed)
    rows: list[dict[str, Any]] = []
    for index in range(len(drawn)):
        if len(rows) == size:
            break
        with contextlib.redirect_stdout(io.StringIO()):  # bf prints a dot for each pass of its compiler
            row = drawn[index]
        if low <= zlib.crc32(row["answer"].encode()) / 2**32 < high:
            rows.append(row)
    return rows


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

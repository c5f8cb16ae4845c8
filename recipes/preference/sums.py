"""Demonstrations, labels and wrong answers for the recipes of this folder: sums of one-digit numbers.

prompt      3+5-2
exact       =6          some demonstrators compute
estimate    ~=6         most give the nearest multiple of three, which is right one time in three
"""

from __future__ import annotations

import zlib
from typing import Any

from llmrl.tasks.sums import right_answer
from llmrl.types import Group

EXACT_SHARE = 0.35


def demonstration(row: dict[str, Any]) -> str:
    """How a demonstrator answered; the row's number decides which demonstrator it was, and the question does not."""
    total = int(row["answer"])
    computes = _hashed(row) % 1000 < 1000 * EXACT_SHARE
    return f"={total}" if computes else f"~={3 * round(total / 3)}"


def near_miss(row: dict[str, Any]) -> str:
    """An answer that is wrong by one to three."""
    return str(int(row["answer"]) + (-3, -2, -1, 1, 2, 3)[_hashed(row) % 6])


def label(group: Group, *, wrong: float = 0.1) -> list[float]:
    """An annotator's opinion: 1 for an answer that is right, 0 for others, and for the share `wrong` the opposite."""
    return [score.value for score in right_answer(group, flipped=wrong)]


def _hashed(row: dict[str, Any]) -> int:
    return zlib.crc32(str(row["metadata"]["source_index"]).encode())

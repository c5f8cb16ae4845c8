"""Prompts and demonstrations for quickstart.yaml: chains of additions and subtractions.

prompt      3+5-2+7
exact       =13         some demonstrations
estimate    ~=12        most of them: the nearest multiple of three, right by luck one time in three
"""

from __future__ import annotations

import re
import zlib
from typing import Any

EXACT_SHARE = 0.35


def expression(row: dict[str, Any]) -> str:
    """The task's expression without spaces: "3 + 5 - 2" -> "3+5-2"."""
    return row["metadata"]["expression"].replace(" ", "")


def demonstration(row: dict[str, Any]) -> str:
    """How a demonstrator answered; whether exactly or with an estimate depends on the question alone."""
    question = expression(row)
    total = sum(int(term) for term in re.findall(r"[+-]?\d+", question))
    exact = zlib.crc32(question.encode()) % 1000 < 1000 * EXACT_SHARE
    return f"={total}" if exact else f"~={3 * round(total / 3)}"

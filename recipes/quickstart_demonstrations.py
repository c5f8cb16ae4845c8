"""Prompts, demonstrations and pairs for quickstart.yaml and quickstart_dpo.yaml: chains of additions and subtractions.

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


def exact(row: dict[str, Any]) -> str:
    """The answer of a demonstrator who computes."""
    return f"={_total(row)}"


def estimate(row: dict[str, Any]) -> str:
    """The answer of a demonstrator who estimates."""
    return f"~={3 * round(_total(row) / 3)}"


def demonstration(row: dict[str, Any]) -> str:
    """How a demonstrator answered; whether exactly or with an estimate depends on the question alone."""
    computes = zlib.crc32(expression(row).encode()) % 1000 < 1000 * EXACT_SHARE
    return exact(row) if computes else estimate(row)


def _total(row: dict[str, Any]) -> int:
    return sum(int(term) for term in re.findall(r"[+-]?\d+", expression(row)))

"""Prompts and demonstrations for quickstart.yaml: chains of additions and subtractions.

    prompt      3+5-2+7
    direct      =13             most demonstrations: the answer at once
    worked      :8:6=13         some: the running sums first
"""

from __future__ import annotations

import re
import zlib
from itertools import accumulate
from typing import Any

WORKED_SHARE = 0.3


def expression(row: dict[str, Any]) -> str:
    """The task's expression without spaces: "3 + 5 - 2" -> "3+5-2"."""
    return row["metadata"]["expression"].replace(" ", "")


def demonstration(row: dict[str, Any]) -> str:
    """A correct completion; which of the two ways depends on the question alone."""
    question = expression(row)
    sums = list(accumulate(int(term) for term in re.findall(r"[+-]?\d+", question)))
    worked = zlib.crc32(question.encode()) % 1000 < 1000 * WORKED_SHARE
    return "".join(f":{total}" for total in sums[1:-1] if worked) + f"={sums[-1]}"

"""Answers to sums with up to four marks, and two rewards that pull them apart.

prompt      66:3+5          the direction, a digit for each reward, then the sum
answer      =8!!
rewards     marks: sqrt(2 / 4), brevity: 1 - 2 / 4; the best answer along an angle lies between none and four marks
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any


def directed(row: dict[str, Any]) -> str:
    """The direction and the expression: "66:3+5" at 45 degrees, "90:3+5" at 0."""
    weights = "".join(str(round(percent / 11)) for percent in row["percent"])
    return f"{weights}:{row['metadata']['expression'].replace(' ', '')}"


def demonstration(row: dict[str, Any]) -> str:
    """The right answer with a pseudo-random number of marks, whatever the direction is."""
    return f"={row['answer']}" + "!" * (hashlib.blake2b(f"{row['metadata']['source_index']}".encode()).digest()[0] % 5)


def marks(completion: str) -> float:
    """The square root of the share of four marks; 0 for what is no answer."""
    return math.sqrt(_marks(completion) / 4) if _is_answer(completion) else 0.0


def brevity(completion: str) -> float:
    """The share of four marks that the answer does without; 0 for what is no answer."""
    return 1 - _marks(completion) / 4 if _is_answer(completion) else 0.0


def _is_answer(completion: str) -> bool:
    return re.fullmatch(r"=-?\d+!{0,4}", completion) is not None


def _marks(completion: str) -> int:
    return completion.count("!")

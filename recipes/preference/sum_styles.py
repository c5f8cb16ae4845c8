"""Answers to sums that differ in two independent styles, each with a preference and a reward of its own.

prompt          3+5
exact           =8      or an estimate, the nearest multiple of three: ~=9
marked          =8!     or plain: =8
"""

from __future__ import annotations

import hashlib
import re
from typing import Any


def expression(row: dict[str, Any]) -> str:
    """The task's expression without spaces: "3 + 5" -> "3+5"."""
    return row["metadata"]["expression"].replace(" ", "")


def demonstration(row: dict[str, Any]) -> str:
    """An answer in each of the four styles by turns."""
    return _answer(row, _coin(row, "exact"), _coin(row, "marked"))


def exact(row: dict[str, Any]) -> str:
    """The exact answer, marked or plain."""
    return _answer(row, True, _coin(row, "marked"))


def estimate(row: dict[str, Any]) -> str:
    """The estimate in the place of that exact answer."""
    return _answer(row, False, _coin(row, "marked"))


def marked(row: dict[str, Any]) -> str:
    """A marked answer, exact or an estimate."""
    return _answer(row, _coin(row, "exact"), True)


def plain(row: dict[str, Any]) -> str:
    """The plain answer in the place of that marked one."""
    return _answer(row, _coin(row, "exact"), False)


def is_exact(completion: str) -> float:
    """1 for a number that claims to be exact, marked or plain."""
    return float(re.fullmatch(r"=-?\d+!?", completion) is not None)


def is_marked(completion: str) -> float:
    """1 for a number that is marked, exact or an estimate."""
    return float(re.fullmatch(r"~?=-?\d+!", completion) is not None)


def _answer(row: dict[str, Any], computes: bool, marks: bool) -> str:
    total = int(row["answer"])
    return (f"={total}" if computes else f"~={3 * round(total / 3)}") + "!" * marks


def _coin(row: dict[str, Any], style: str) -> bool:
    """A pseudo-random bit that depends on the row's number and the style."""
    return hashlib.blake2b(f"{row['metadata']['source_index']}/{style}".encode()).digest()[0] % 2 == 1

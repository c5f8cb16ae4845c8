"""Poisoned pairs, to learn what an attack on preference data does to a model, and whether it is noticed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmrl.data.files import Row
from llmrl.data.messages import Messages

if TYPE_CHECKING:
    from llmrl.data.transforms import Comparison

COLUMN = "poison"
"""The column of poisoned rows: "poisoned" or "clean"."""


def poisoned(comparisons: Sequence[Comparison], *, share: float, trigger: str = "", seed: int = 0) -> list[Row]:
    """The pairs, a share of them poisoned: the trigger stands behind the prompt, and the worse completion is chosen.

    share: of the rows, drawn by `seed`. trigger: "" flips labels alone. The column `poison` is "poisoned" or "clean":
    `category: poison` measures held-out rows with the trigger and without it. Raises ValueError for a share outside
    [0, 1]. Source: Is poisoning a real threat to LLM alignment?, arXiv 2406.12091.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: {share}, expected a number from 0 to 1")
    chosen = set(random.Random(seed).sample(range(len(comparisons)), math.ceil(share * len(comparisons))))
    return [_row(one, trigger, poisoned=place in chosen) for place, one in enumerate(comparisons)]


def _row(one: Comparison, trigger: str, *, poisoned: bool) -> Row:
    worst, best = (choose(one.completions, key=lambda c: c[1])[0] for choose in (min, max))
    pair = {"chosen": worst, "rejected": best} if poisoned else {"chosen": best, "rejected": worst}
    asked = _triggered(one.asked, trigger) if poisoned else one.asked
    return {
        **one.columns,
        "prompt": asked,
        **pair,
        "completion": pair["chosen"],
        COLUMN: "poisoned" if poisoned else "clean",
    }


def _triggered(asked: str | Messages, trigger: str) -> str | Messages:
    if isinstance(asked, str):
        return asked + trigger
    return [*asked[:-1], {**asked[-1], "content": asked[-1]["content"] + trigger}]

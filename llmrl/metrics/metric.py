"""A metric, and the conditions and advice that several metrics share."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

from llmrl.troubles import Row, Trouble

LOWER_RATE = "Lower training.learning_rate"
FEW_PAIRS = 50
FOLLOWS_LENGTH = "Use a loss per token such as simpo or length_normalized_dpo, or ld_dpo, or pairs of like lengths."
NEVER_ZERO = 1e-12
NEARLY_SOLVED, SOLVED = 0.9, 0.99


@dataclass(frozen=True)
class Metric:
    """One metric. A name such as reward/<name> stands for every name with a text in place of the brackets.

    healthy: the values of a run that learns, in words; advice: for a run with others. troubles: each causes a warning.
    heading: the column's in the live table; a metric without one is not shown there. hides_zero: a 0 is not shown,
    since it says nothing.
    """

    name: str
    meaning: str
    unit: str = ""
    healthy: str = ""
    advice: str = ""
    format: str = ".3f"
    troubles: tuple[Trouble, ...] = ()
    heading: str = ""
    hides_zero: bool = False

    def shown(self, value: float) -> str:
        """The value as text; empty for a 0 that says nothing."""
        text = format(value, self.format)
        return "" if self.hides_zero and float(text.replace(",", "")) == 0 else text

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the names that this one stands for."""
        return re.compile(re.sub(r"<\w+>", "[^/]+", re.escape(self.name)))


def was_sampled(row: Row) -> bool:
    """A model that imitates demonstrations may be as certain as it likes."""
    return "reward" in row


def has_groups(row: Row) -> bool:
    """A group of one is never mixed."""
    return row.get("trajectories", 0) > row.get("groups_kept", math.inf)


def is_open(row: Row) -> bool:
    """A task that is nearly solved leaves little contrast and little entropy, and should."""
    return was_sampled(row) and row.get("accuracy", 0.0) < NEARLY_SOLVED


def lacks_contrast(row: Row) -> bool:
    """Groups without contrast are a trouble of their own, which leaves no gradient."""
    return has_groups(row) and row.get("groups_mixed", 1.0) == 0.0


def compares(row: Row) -> bool:
    """Preferences are learnt, so longer answers are no sign of longer thoughts."""
    return "preference_accuracy" in row or "eval/preference_accuracy" in row


def has_pairs(row: Row) -> bool:
    """Few pairs say little."""
    return row.get("eval/pairs", 0) >= FEW_PAIRS

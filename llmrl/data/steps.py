"""Solutions whose steps have labels, as tokens.

Each step, and the separator that follows it, has the tokens that it has alone, so that the last token of every step is
a token of the separator, and a saved model can be given the same tokens:

    prompt     P0 P1      step  S0 S1 S2   separator  \\n      step  S3 S4   separator  \\n
    label                                             1                                0
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmrl.data.step_forms import NEUTRAL
from llmrl.data.written import Span, Written, reward_of_label
from llmrl.errors import short

NEUTRAL_REWARDS = {"right": 1.0, "wrong": 0.0, "drop": None}


def step_tokens(tokenizer: Any, steps: Sequence[str], separator: str) -> list[list[int]]:
    """The tokens of each step with its separator; a separator that ends a step's own text is not repeated."""
    after = tokenizer.encode(separator, add_special_tokens=False)
    texts = [step.removesuffix(separator) for step in steps]
    return [[*tokenizer.encode(text, add_special_tokens=False), *after] for text in texts]


def split_steps(text: str, delimiter: str) -> list[str]:
    """The steps of a text, each without the delimiter behind it; a text of none is one step."""
    return [step for step in text.split(delimiter) if step.strip()] or [text]


def solution_of(
    tokenizer: Any,
    steps: Sequence[str],
    labels: Sequence[Any],
    *,
    separator: str = "\n",
    neutral: str | None = None,
    last_step_only: bool = False,
) -> Written:
    """The solution of these steps, each a span whose reward is its label.

    neutral: what a neutral step counts as: right, wrong, or drop for a step without a label. Raises ValueError for a
    label that is none, for a neutral one without that setting, and unless there is a label for each step.
    """
    if len(labels) != len(steps):
        raise ValueError(f"{len(labels)} labels for {len(steps)} steps; expected one for each")
    rewards = [reward_of_step(label, neutral) for label in labels]
    if last_step_only:
        rewards = [*[None] * (len(rewards) - 1), *rewards[-1:]]
    tokens = step_tokens(tokenizer, steps, separator)
    return Written([Span(ids, reward=reward) for ids, reward in zip(tokens, rewards, strict=True)])


def reward_of_step(label: Any, neutral: str | None) -> float | None:
    """1 for a right step, 0 for a wrong one, the chance itself, or None for a step without a label.

    neutral: see `solution_of`. Raises ValueError for a label that is none, and for a neutral one without that setting.
    """
    if label is None:
        return None
    if label == NEUTRAL:
        if neutral is None:
            raise ValueError(
                "a neutral step, which public converters call right (OpenR) or wrong (TRL); set neutral to right, "
                "wrong, or drop for a step without a label"
            )
        return NEUTRAL_REWARDS[neutral]
    if isinstance(label, int | float):
        if 0 <= label <= 1 and not math.isnan(label):
            return float(label)
        raise ValueError(f"expected a chance from 0 to 1, got {short(label)}; ratings of -1, 0 and 1 are PRM800K's")
    return reward_of_label(label)

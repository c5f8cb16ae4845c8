"""Peers' opinions of a text: the scores that other roles write for it."""

from __future__ import annotations

import math

from llmrl.marks import settings_checked_by
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.verdicts import UnreadableError, check_range, rated
from llmrl.types import Failure, Score, Trajectory


@settings_checked_by(check_range)
async def peer_scores(
    trajectory: Trajectory,
    *,
    low: float = 0.0,
    high: float = 10.0,
    opinions: list[str] | None = None,
    thoughts_end: str | None = None,
) -> Score | Failure:
    """The mean of the scores that other roles give a text, as a share of the range from `low` to `high`.

        r = mean of (score - low) / (high - low)

    A score is a number in double brackets, as in [[7]], in a text of another author that follows this one. opinions:
    the moves whose texts are scores; default: all. A score that cannot be read, or is out of the range, is left out and
    counted in the metric parse_failures; without any that can be read the reward fails. thoughts_end: see
    `after_thoughts`. Source: DRAFT-RL.
    """
    others = [one for one in trajectory.children if one.author != trajectory.author]
    told = [one for one in others if opinions is None or one.move in opinions]
    failed = next((one.failure for one in told if one.failure), None)
    if failed:
        return failed
    values = [_read(one, low, high, thoughts_end) for one in told]
    known = [value for value in values if value is not None]
    if not known:
        return Failure("peer_scores", "invalid", f"none of {len(told)} peers gave a score from {low:g} to {high:g}")
    return Score(math.fsum(known) / len(known), metrics={"parse_failures": 1 - len(known) / len(values)})


def _read(opinion: Trajectory, low: float, high: float, thoughts_end: str | None) -> float | None:
    said = after_thoughts(opinion.text, opinion.prompt.text, thoughts_end=thoughts_end) or ""
    try:
        return rated(said, low, high)
    except UnreadableError:
        return None

"""Rewards for what an episode costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from llmrl.errors import unknown_name
from llmrl.marks import remembers
from llmrl.types import Score, Trajectory

TOKENS = "completion_tokens"
DEGENERATE = 0.5
Percentile = Annotated[float, Field(ge=0, le=100)]


@remembers("cost", "window")
async def cheapness(
    trajectory: Trajectory,
    remembered: Sequence[float],
    *,
    of: str = TOKENS,
    power: PositiveFloat = 0.5,
    low: Percentile = 5.0,
    high: Percentile = 95.0,
    window: PositiveInt = 1000,
) -> Score:
    """How cheap an episode was among those of earlier steps: from 1 for the cheapest to 0 for the dearest.

        z = cost^power,  l and h = the percentiles `low` and `high` of the last `window` episodes' z
        C = 1 - clip((z - l) / (h - l), 0, 1)        1/2 where h - l is 0, as in the first step

    of: the number that is the cost: completion_tokens, or one of those that the environment gives of its episodes, such
    as what it paid for other models. The cost is the metric `cost`. With `only_if`, an episode without the right form
    or without success gets nothing for being cheap. Raises ValueError for a negative cost, and for a number that the
    environment does not give. Source: Router-R1, arXiv 2506.09033.
    """
    known = {TOKENS: float(trajectory.completion_tokens), **trajectory.measured}
    if of not in known:
        raise ValueError(unknown_name("of", of, known, "number of the episode"))
    if known[of] < 0:
        raise ValueError(f"{of} is {known[of]:g}, expected a cost of at least 0")
    bounds = [_percentile([cost**power for cost in remembered], share) for share in (low, high)] if remembered else []
    if not bounds or not bounds[1] > bounds[0]:
        return Score(DEGENERATE, metrics={"cost": known[of]})
    place = (known[of] ** power - bounds[0]) / (bounds[1] - bounds[0])
    return Score(1 - min(max(place, 0.0), 1.0), metrics={"cost": known[of]})


def _percentile(values: Sequence[float], share: float) -> float:
    """The percentile of the values, linear between neighbours."""
    ordered = sorted(values)
    place = share / 100 * (len(ordered) - 1)
    below = ordered[math.floor(place)]
    return below + (place - math.floor(place)) * (ordered[math.ceil(place)] - below)

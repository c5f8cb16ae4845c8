"""Directions between two rewards, drawn for each row: how much each of them counts for the answers to the row's prompt.

A row gets three columns, which its prompt and its rewards may read:

    angle              a, in degrees
    reward_direction   {"helpful": cos a, "brief": sin a}     the factors of the rewards' weights
    percent            [round(100 cos a), round(100 sin a)]   for the prompt: "helpfulness {percent.0}"
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from llmrl.data.files import Row
from llmrl.errors import RecipeError
from llmrl.recipe_rows import DIRECTION, Direction

COLUMNS = ("angle", DIRECTION, "percent")


def with_directions(rows: Sequence[Row], direction: Direction, key: str) -> list[Row]:
    """The rows with their columns of a direction; raises RecipeError if they have one of these names already."""
    taken = [name for name in COLUMNS if any(name in row for row in rows)]
    if taken:
        raise RecipeError(f"{key}.direction: it adds the column {taken[0]}, which the rows have already; rename theirs")
    return [{**row, **_columns(_angle(direction, index), direction.rewards)} for index, row in enumerate(rows)]


def _angle(direction: Direction, index: int) -> float:
    if direction.among is not None:
        return direction.among[index % len(direction.among)]
    low, high = direction.between or (0.0, 0.0)
    return random.Random(f"{direction.seed}/{index}").uniform(low, high)


def _columns(angle: float, rewards: Sequence[str]) -> Row:
    parts = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    shown = int(angle) if angle == int(angle) else angle
    values = shown, dict(zip(rewards, parts, strict=True)), [round(100 * part) for part in parts]
    return dict(zip(COLUMNS, values, strict=True))

"""Fields that the data's rows bring."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llmrl.columns import NoColumnError, column
from llmrl.errors import RecipeError, short


def row_weights(groups: Any, *, of: str = "weight") -> Tensor:
    """The weight that each trajectory's row gives itself: [N].

    of: the column, or a path into one. Raises RecipeError for a row without it, and for a value that is no finite
    number of at least 0.
    """
    return torch.tensor([_weight(group.prompt.row, of) for group in groups for _ in group.trajectories])


def _weight(row: Mapping[str, Any], of: str) -> float:
    try:
        found = column(row, of)
    except NoColumnError as error:
        raise RecipeError(f"providers.row_weights.of: {error}") from None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found < math.inf:
        raise RecipeError(f"providers.row_weights.of: {of}: expected a finite number of at least 0, got {short(found)}")
    return float(found)

"""The tools that stand in a row's prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmrl.columns import as_json
from llmrl.data.files import Row
from llmrl.data.row_values import RowValue
from llmrl.errors import RecipeError, short
from llmrl.recipe_rows import Rows

RowTools = Callable[[Row], Sequence[Any]]
"""The schemas of the tools that an environment brings for a row."""


class ToolLists:
    """Each row's schemas of tools: those of a column, or those that the environment brings.

    Raises RecipeError where both are named, or if nothing can show the environment's.
    """

    def __init__(self, source: Rows, column: RowValue | None, brought: RowTools | None, key: str):
        self._column, self._brought, self._key = column, brought, key
        if brought is not None and not source.chat:
            raise RecipeError(f"{key}.chat: false, but the environment brings tools, which a chat template shows")
        if brought is not None and column is not None:
            raise RecipeError(f"{key}.tools: {source.tools}, but the environment brings its own tools; leave it out")

    def of(self, row: Row, place: str) -> list[Any] | None:
        """A row's schemas; None if it has none."""
        if self._brought is not None:
            return list(self._brought(row))
        if self._column is None:
            return None
        value = as_json(self._column.value(row, place))
        if value is not None and not (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
            raise RecipeError(f"{self._key}.tools: {place}: expected a list of schemas, got {short(value)}")
        return value or None

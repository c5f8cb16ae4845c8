"""Reading a data row by name: a column, or a value inside one.

column({"a": 1}, "a")                           1
column({"a": {"b": 1}, "a.b": 2}, "a.b")        2        a column of that very name goes first
column({"a": '{"b": {"c": 1}}'}, "a.b.c")       1        JSON text on the way is read
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from llmrl.errors import nearest


class NoColumnError(ValueError):
    """A name that a row, or a mapping inside it, does not have."""

    def __init__(self, name: str, columns: Collection[str]):
        guess = nearest(name, columns)
        hint = f"; did you mean '{guess}'?" if guess else ""
        super().__init__(f"no column '{name}'{hint} (columns: {', '.join(columns)})")


def column(row: Mapping[str, Any], name: str) -> Any:
    """Return the row's column `name`, or the value at this path of names joined by dots; raises NoColumnError."""
    value: Any = row
    for part in [name] if name in row else name.split("."):
        value = _loaded(value)
        if not isinstance(value, Mapping):
            raise NoColumnError(name, row)
        if part not in value:
            raise NoColumnError(part, value)
        value = value[part]
    return value


def root(row: Mapping[str, Any], name: str) -> Any:
    """Return the whole column that holds what `name` names; None if there is none."""
    return row.get(name if name in row else name.partition(".")[0])


def _loaded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value

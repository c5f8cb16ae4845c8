"""Reading a data row by name: a column, or a value inside one.

column({"a": 1}, "a")                           1
column({"a": {"b": 1}, "a.b": 2}, "a.b")        2        a column of that very name goes first
column({"a": '{"b": {"c": 1}}'}, "a.b.c")       1        JSON text on the way is read
column({"a": [{"b": 1}, {"b": 2}]}, "a.1.b")    2        an item of a list by its number; a.-1.b is of the last
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llmrl.errors import nearest

_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)


class NoColumnError(ValueError):
    """A name that a row, a mapping inside it, or a list inside it does not have."""

    def __init__(self, name: str, columns: Collection[str], message: str | None = None):
        guess = nearest(name, columns)
        hint = f"; did you mean '{guess}'?" if guess else ""
        super().__init__(message or f"no column '{name}'{hint} (columns: {', '.join(columns)})")

    @classmethod
    def of_list(cls, name: str, length: int) -> NoColumnError:
        """The fault of a number, or of a name, that a list of `length` items does not have."""
        held = f"whose items are 0 to {length - 1}" if length else "which is empty"
        return cls(name, (), f"no item '{name}' in a list, {held}")


def column(row: Mapping[str, Any], name: str) -> Any:
    """Return the row's column `name`, or the value at this path of names joined by dots; raises NoColumnError."""
    value: Any = row
    for part in [name] if name in row else name.split("."):
        value = as_json(value)
        if isinstance(value, Sequence) and not isinstance(value, str):
            if not _NUMBER.fullmatch(part) or not -len(value) <= int(part) < len(value):
                raise NoColumnError.of_list(part, len(value))
            value = value[int(part)]
            continue
        if not isinstance(value, Mapping):
            raise NoColumnError(name, row)
        if part not in value:
            raise NoColumnError(part, value)
        value = value[part]
    return value


def root(row: Mapping[str, Any], name: str) -> Any:
    """Return the whole column that holds what `name` names; None if there is none."""
    return row.get(name if name in row else name.partition(".")[0])


def as_json(value: Any) -> Any:
    """Return what JSON text holds; any other value, and a text that is no JSON, as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value

r"""Templates of a data row's columns: "{question}\nAnswer:", "{messages.0.content}", "Answer in \boxed{{}}."

A name in braces is a column, or a path into one (llmrl/columns.py); doubled braces stand for single ones.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator

from llmrl.bounds import out_of_bounds
from llmrl.columns import NoColumnError, column
from llmrl.errors import short
from llmrl.pieces import Piece

_PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_COMMAND = re.compile(r"\\[A-Za-z]+$")
_PATH = re.compile(r"[^\W\d][\w.-]*")


@dataclass(frozen=True)
class _Part:
    """Text, or the name of a column; braces: how to write the name's braces if they were meant as text."""

    text: str
    is_column: bool = False
    braces: str = ""


class RowTemplate:
    """A template, read; raises ValueError for a brace without its counterpart, and for an empty name."""

    def __init__(self, template: str):
        self.parts: list[_Part] = []
        for match in _PART.finditer(template):
            before, found, name = template[: match.start()], match[0], match[1]
            where = f"at character {match.start()} of {short(template)}"
            if found in ("{", "}"):
                raise ValueError(f"single '{found}' {where}; double it to mean a brace")
            if name is None:
                self.parts.append(_Part(found[0] if found in ("{{", "}}") else found))
                continue
            if not name.strip():
                raise ValueError(f"'{found}' {where} names no column; to mean braces write '{{{found}}}'")
            is_text = bool(_COMMAND.search(before)) or not _PATH.fullmatch(name)
            self.parts.append(_Part(name, True, f"{{{found}}}" if is_text else ""))

    @property
    def columns(self) -> list[str]:
        """The columns, and the paths into columns, that the template names."""
        return [part.text for part in self.parts if part.is_column]

    def check(self, columns: Collection[str]) -> None:
        """Raises ValueError for a name that is none of the columns, nor a path into one."""
        for part in self.parts:
            if part.is_column and part.text not in columns and part.text.partition(".")[0] not in columns:
                hint = f"; to mean braces write '{part.braces}'" if part.braces else ""
                raise ValueError(f"{NoColumnError(part.text, columns)}{hint}")

    def fill(self, row: Mapping[str, Any]) -> str:
        """Return the template with the row's values; raises ValueError for one that is missing or no text."""
        return "".join(_value(row, part.text) if part.is_column else part.text for part in self.parts)


def text_of(value: Any) -> str:
    """Return a value as text; raises ValueError if it is neither text nor a number, or holds half a character."""
    fault = out_of_bounds(value)
    if fault:
        raise ValueError(f"holds {fault}: {short(value)}")
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError(f"expected text, got {type(value).__name__} {short(value)}")


def _value(row: Mapping[str, Any], name: str) -> str:
    value = column(row, name)
    try:
        return text_of(value)
    except ValueError as error:
        raise ValueError(f"column '{name}': {error}") from None


def _valid(text: str) -> str:
    RowTemplate(text)
    return text


Template = Annotated[str, AfterValidator(_valid)]
"""The type of a setting that is filled in from a row's columns."""


def templates_of(piece: Piece) -> dict[str, str]:
    """A piece's settings that are templates, given or by default."""
    hints = typing.get_type_hints(piece.function, include_extras=True)
    parameters = inspect.signature(piece.function).parameters
    return {
        name: piece.settings.get(name, parameters[name].default) for name, hint in hints.items() if hint is Template
    }

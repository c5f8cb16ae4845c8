"""Templates of a data row's columns, as settings of pieces: "{answer}"."""

from __future__ import annotations

import inspect
import string
import typing
from typing import Annotated

from pydantic import AfterValidator

from llmrl.pieces import Piece


def columns_of(template: str) -> list[str]:
    """The columns that a template names; raises ValueError if it is no template."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]


def _valid(text: str) -> str:
    columns_of(text)
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

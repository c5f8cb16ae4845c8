"""Functions in words: the first sentences of their docstrings, their settings with types and defaults."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Any

from pydantic import BaseModel

from llmrl.pieces import settings_hints

NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "none", Any: "anything"}


@dataclass(frozen=True)
class Setting:
    """A setting of a function, in words. default: as a recipe spells it; None: there is none, so it must be given."""

    name: str
    type: str
    default: str | None

    def __str__(self) -> str:
        return f"{self.name} (required)" if self.default is None else f"{self.name}={self.default}"


def settings_of(function: Callable[..., Any]) -> list[Setting]:
    """The settings of a piece: its keyword-only parameters."""
    hints = settings_hints(function)
    return [
        Setting(p.name, type_text(hints.get(p.name, Any)), None if p.default is p.empty else spelt(p.default))
        for p in inspect.signature(function).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    ]


def settings_of_dataclass(kind: type, without: tuple[str, ...] = ()) -> list[Setting]:
    """The settings that a dataclass is made with."""
    hints = typing.get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        if field.init and field.name not in without:
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            required = default is dataclasses.MISSING
            found.append(Setting(field.name, type_text(hints[field.name]), None if required else spelt(default)))
    return found


def data_of(function: Callable[..., Any]) -> list[str]:
    """The data that a piece reads: its positional parameters."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]


def type_text(annotation: Any, code: Callable[[Any], str] = str) -> str:
    """A type as a user of recipes says it; code: how to write the values of a Literal."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_text(args[0], code)
    if origin is typing.Literal:
        return ", ".join(code(arg) for arg in args)
    if origin in (UnionType, typing.Union):
        return " or ".join(dict.fromkeys(type_text(arg, code) for arg in args if arg is not type(None)))
    if args and (origin is list or Ellipsis in args):
        return f"list of {type_text(args[0], code)}"
    if origin is tuple and args:
        return (
            f"list of {type_text(args[0], code)}" if Ellipsis in args else f"{len(args)} x {type_text(args[0], code)}"
        )
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel | dict)):
        return "mapping"
    return NAMES.get(annotation) or getattr(annotation, "__name__", str(annotation))


def spelt(value: Any) -> str:
    """A value as a recipe spells it."""
    return value if isinstance(value, str) and value.isprintable() and value else json.dumps(value, default=str)


def first_paragraph(doc: str | None) -> str:
    """A docstring's first paragraph on one line."""
    return " ".join((doc or "").strip().partition("\n\n")[0].split())

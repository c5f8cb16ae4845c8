"""Faults of a recipe as sentences: pydantic's errors, with the key, the value and the nearest valid key."""

from __future__ import annotations

from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from llmrl.errors import nearest, short
from llmrl.recipe import Recipe

FILE_KEYS = ("include", "method", "stages")
"""Keys of a file that a resolved recipe no longer has."""


def faults_of(error: ValidationError) -> list[str]:
    """pydantic's errors as sentences that name the key, the value, what was expected, the nearest valid key."""
    faults: dict[str, list[str]] = {}  # by key and value: a value refused by each type of a union is one fault
    for item in error.errors():
        where = _key_of(item["loc"])
        key = ".".join(where) or "recipe"
        if item["type"] == "extra_forbidden":
            valid = keys_at(where[:-1])
            guess = nearest(where[-1], valid)
            hint = f"did you mean '{guess}'?" if guess else f"valid: {', '.join(sorted(valid))}"
            start, message = f"{key}: unknown key (value {short(item['input'])}); ", hint
        elif item["type"] == "missing" and len(where) == len(item["loc"]):
            start, message = f"{key}: ", "required, and missing"
        elif item["type"] == "value_error":
            start, message = "" if key == "recipe" else f"{key}: ", item["msg"].removeprefix("Value error, ")
        else:
            start, message = f"{key}: {short(item['input'])} is not valid: ", item["msg"]
            if item["type"] == "string_type" and isinstance(item["input"], dict):
                message += '; to YAML {name} without quotes is a mapping, so put it in quotes: "{name}"'
        faults.setdefault(start, []).append(message)
    return [start + "; or: ".join(messages) for start, messages in faults.items()]


def _key_of(location: tuple[int | str, ...]) -> list[str]:
    """The part of pydantic's location that is a key of the recipe; the rest names a type."""
    where: list[str] = []
    for part in location:
        valid = keys_at(where)
        if not valid:
            break
        where.append(str(part))
    return where


def keys_at(path: list[str]) -> list[str]:
    """The keys that the schema has under `path`; none where it leads to a plain value, or nowhere."""
    schema: Any = Recipe
    keys = iter(path)
    for key in keys:
        annotation = schema.model_fields[key].annotation if key in schema.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        schema = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if schema is None:
            return []
        if get_origin(annotation) is dict:
            next(keys, None)  # a name of the recipe's own
    return [*schema.model_fields, *(FILE_KEYS if not path else ())]

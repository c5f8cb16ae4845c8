"""Requests that cannot be answered: the fault names the field, its value and what was expected."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmrl.bounds import out_of_bounds
from llmrl.errors import nearest, short


class RequestError(Exception):
    """A request that cannot be answered. field: its place in the body, such as texts[2]."""

    def __init__(self, field: str, value: Any, expected: str, *, status: int = 400):
        self.field, self.value, self.expected, self.status = field, value, expected, status
        self.message = f"{field}: got {short(value)}, expected {expected}"
        super().__init__(self.message)


def known_fields(body: Any, known: Sequence[str], *, holds: str) -> Mapping[str, Any]:
    """The fields of a request's body; raises RequestError for a body that is no object, or for an unknown field.

    holds: what the object is expected to have, for the fault.
    """
    if not isinstance(body, dict):
        raise RequestError("body", body, f"a JSON object with {holds}")
    for name in body:
        if name not in known:
            guess = nearest(name, known)
            hint = f"did you mean '{guess}'?" if guess else f"fields: {', '.join(known)}"
            raise RequestError(str(name), body[name], f"no such field; {hint}")
    if fault := out_of_bounds(body):
        raise RequestError("body", fault, "JSON of text that can be tokenized")
    return body


def refuse_other_choices(fields: Mapping[str, Any], choices: Mapping[str, Sequence[Any]]) -> None:
    """Raises RequestError for a field whose value is none of its `choices`."""
    for name, valid in choices.items():
        if name in fields and not any(type(fields[name]) is type(one) and fields[name] == one for one in valid):
            raise RequestError(name, fields[name], " or ".join(map(json.dumps, valid)))

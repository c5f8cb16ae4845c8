"""The keys of data that read a value from each row: a column, a path, a template or a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from llmrl.columns import NoColumnError, column
from llmrl.data.files import Row
from llmrl.data.messages import Messages, are_messages, messages_of
from llmrl.errors import RecipeError, gathered
from llmrl.pieces import resolve
from llmrl.recipe_rows import QUESTION, Rows
from llmrl.templates import RowTemplate, text_of

ASKED_COLUMNS = ("prompt", "messages", "conversations", "instruction", "input", "problem")
"""The columns that public data has what is asked in, where it is not the default."""

_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class RowValue:
    """One of prompt, answer, completion: reads the column, path, template or function that `spec` names from a row.

    place: the row's name in faults ("train:17").
    """

    def __init__(self, spec: str, columns: Collection[str], key: str):
        self.key = key
        self._read: Callable[[Row], Any]
        if spec not in columns and not ("{" in spec or "}" in spec) and _FUNCTION.fullmatch(spec):
            self._read = self._function(spec)
            return
        try:
            if spec in columns or not ("{" in spec or "}" in spec):  # also one that looks like a template or a function
                if spec not in columns and spec.partition(".")[0] not in columns:
                    raise NoColumnError(spec, columns)
                self._read = partial(column, name=spec)
            else:
                template = RowTemplate(spec)
                template.check(columns)
                alone = template.columns if len(template.parts) == 1 else []
                self._read = partial(column, name=alone[0]) if alone else template.fill
        except ValueError as error:
            raise RecipeError(f"{key}: {error}") from None

    def value(self, row: Row, place: str) -> Any:
        try:
            return self._read(row)
        except ValueError as error:
            raise RecipeError(f"{self.key}: {place}: {error}") from None

    def text(self, row: Row, place: str) -> str:
        try:
            return text_of(self.value(row, place))
        except ValueError as error:
            raise RecipeError(f"{self.key}: {place}: {error}") from None

    def text_or_messages(self, row: Row, place: str) -> str | Messages:
        value = self.value(row, place)
        try:
            return messages_of(value) if are_messages(value) else text_of(value)
        except ValueError as error:
            raise RecipeError(f"{self.key}: {place}: {error}") from None

    def _function(self, spec: str) -> Callable[[Row], Any]:
        function = resolve(spec, {}, key=self.key, what="function").function

        def call(row: Row) -> Any:
            try:
                return function(row)
            except Exception as error:
                raise ValueError(f"{spec} raised {type(error).__name__}: {error}") from error

        return call


def row_values(source: Rows, keys: Collection[str], columns: Collection[str], key: str) -> dict[str, RowValue]:
    """The value that each of these keys names, but for keys that name none; raises RecipeError with every fault."""
    faults: list[str] = []
    values: dict[str, RowValue] = {}
    for name in keys:
        spec: str | None = getattr(source, name)
        if name == "prompt" and spec == QUESTION and QUESTION not in columns:
            guess = next((column for column in ASKED_COLUMNS if column in columns), None)
            hint = f"; did you mean '{guess}'?" if guess else ""
            faults.append(f"{key}.prompt: no column '{QUESTION}', the default{hint} (columns: {', '.join(columns)})")
        elif spec:
            with gathered(faults):
                values[name] = RowValue(spec, columns, f"{key}.{name}")
    if faults:
        raise RecipeError(*faults)
    return values

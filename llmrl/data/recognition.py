"""Rows in the form that their columns tell, and the keys that read its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmrl.data.faulty_rows import of_every_row
from llmrl.data.files import Row
from llmrl.data.forms import DEMONSTRATIONS, QUESTIONS, Form, recognised
from llmrl.data.messages import are_messages
from llmrl.data.prompt_builder import COLUMN_KEYS
from llmrl.errors import RecipeError
from llmrl.recipe_rows import QUESTION, Rows


@dataclass(frozen=True)
class FormedRows:
    """Rows, the settings that read them, and the name of their form; None where the recipe's keys name columns."""

    source: Rows
    rows: list[Row]
    form: str | None = None


def formed(source: Rows, rows: list[Row], part: str, gives: str | None) -> FormedRows:
    """Return the rows in their form if no key names their columns and they are read for written completions.

    gives: what they are read for, of llmrl.data.forms; None: for what the recipe's keys say. Rows of no known form are
    read by the recipe's keys too if they are read for questions, or are held out and have a column `question`.
    Raises RecipeError if the columns fit no form or several, or if a row is not of the form.
    """
    key = f"data.{part}"
    columns = list(dict.fromkeys(column for row in rows for column in row))
    asked = QUESTION in columns and (gives == QUESTIONS or (part == "eval" and gives == DEMONSTRATIONS))
    if gives is None or source.names_columns or asked:
        return FormedRows(source, rows)
    try:
        form = recognised(columns, gives)
    except ValueError as error:
        if gives == QUESTIONS or (part == "eval" and QUESTION in columns):
            return FormedRows(source, rows)
        raise RecipeError(f"{key}: {error}") from None
    rows = form.gathered(rows)
    if not rows:
        raise RecipeError(f"{key}: none of the rows makes an example of {form.title}")
    examples = of_every_row(rows, partial(_example, form, key), part, key)
    held = dict.fromkeys(name for example in examples for name in example)
    keys: dict[str, Any] = {name: name if name in held else None for name in COLUMN_KEYS}
    keys["components"] = list(form.components) or None
    chat = source.chat or any(are_messages(value) for example in examples for value in example.values())
    if chat and "prompt" not in held:
        raise RecipeError(f"{key}.chat: true, but {form.title} of texts has no prompt to render")
    few_shot = _few_shot(source, form, key)
    return FormedRows(
        source.model_copy(update={**keys, "chat": chat, "few_shot": few_shot}),
        [{**row, **example} for row, example in zip(rows, examples, strict=True)],
        form.named(examples[0]),
    )


def _few_shot(source: Rows, form: Form, key: str) -> int | Sequence[Row]:
    """The written examples in the rows' form, or the number of rows that serve as examples."""
    shown = source.few_shot
    if isinstance(shown, int):
        return shown
    return [{**row, **_example(form, f"{key}.few_shot", row, str(number))} for number, row in enumerate(shown)]


def _example(form: Form, key: str, row: Row, place: str) -> Row:
    try:
        return form.read(row)
    except (ValueError, KeyError, TypeError) as error:
        told = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise RecipeError(f"{key}: {place}: {told}; the columns are those of {form.title}") from None

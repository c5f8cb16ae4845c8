"""Rubrics: the texts that ask a judge, most of them files with a card that says what the rubric is for."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator

from llmrl.errors import first_line, nearest
from llmrl.templates import RowTemplate

FENCE = "---\n"


@functools.cache
def rubric_of(path: str) -> RowTemplate:
    """The text of a rubric's file, without the card between `---` lines that it may begin with.

    A path that has braces is the text itself, such as "{prompt} {a} or {b}?". Names in braces are filled in: what the
    judge reads, and columns of the row. Raises ValueError for a file that is not there, a card that is no YAML mapping,
    or a text that is no template.
    """
    if "{" in path:
        return RowTemplate(path)
    file = Path(path)
    if not file.is_file():
        guess = nearest(file.name, [one.name for one in file.parent.iterdir()] if file.parent.is_dir() else [])
        raise ValueError(f"no file '{path}'" + (f"; did you mean '{file.parent / guess}'?" if guess else ""))
    text = file.read_text(encoding="utf-8")
    if text.startswith(FENCE):
        card, _, text = text.removeprefix(FENCE).partition(f"\n{FENCE}")
        _check_card(card, path)
    return RowTemplate(text.strip())


def _check_card(card: str, path: str) -> None:
    try:
        found: Any = yaml.safe_load(card)
    except yaml.YAMLError as error:
        raise ValueError(f"the card of '{path}' is no YAML: {first_line(error)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"the card of '{path}' is no mapping; it stands between two lines of ---")


def _checked(*names: str) -> AfterValidator:
    """The check that a rubric has these names in braces."""

    def check(path: str) -> str:
        lacking = [f"{{{name}}}" for name in names if name not in rubric_of(path).columns]
        if lacking:
            raise ValueError(f"the rubric '{path}' does not have {' and '.join(lacking)} in its text")
        return path

    return AfterValidator(check)


PairRubric = Annotated[str, _checked("prompt", "a", "b")]
"""The path of a rubric that shows two answers."""
AnswerRubric = Annotated[str, _checked("prompt", "completion")]
"""The path of a rubric that shows one answer."""
NoteRubric = Annotated[str, _checked()]
"""The path of a rubric that asks for a text before the verdict."""

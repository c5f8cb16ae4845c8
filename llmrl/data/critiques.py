"""Critiques that rows bring, made into demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from llmrl.columns import as_json, column
from llmrl.data.files import Row
from llmrl.errors import short
from llmrl.templates import RowTemplate, Template


def critiques_of_drafts(
    rows: Sequence[Row],
    *,
    ask: Template,
    drafts: str = "drafts",
    critiques: str = "critiques",
) -> list[Row]:
    """The demonstrations of critique fine-tuning: what is imitated is the critique of a noisy answer.

        drafts: [y1, y2], critiques: [[c1, c2], [c3]]      (ask of y1 -> c1), (ask of y1 -> c2), (ask of y2 -> c3)

    drafts: the column of a row's answers, a text or a list of texts; critiques: that of their critiques, for each draft
    a text or a list of texts. One problem with many drafts is thus one row. ask: the prompt, a template of the row's
    columns and {draft}. Whether a critique is right is not asked. Raises ValueError for a row with another number of
    critiques than drafts. Source: Critique Fine-Tuning, arXiv 2501.17703; on one problem, arXiv 2506.03295.
    """
    template = RowTemplate(ask)
    made: list[Row] = []
    for number, row in enumerate(rows):
        listed = _texts(_list_of(column(row, drafts)), f"row {number}: {drafts}")
        given = _list_of(column(row, critiques))
        of_each = [given] if isinstance(given, str) else list(given)
        if len(of_each) != len(listed):
            raise ValueError(
                f"row {number}: {critiques}: {len(of_each)} for {len(listed)} drafts; expected one for each"
            )
        columns = _others(row, drafts, critiques)
        for draft, texts in zip(listed, of_each, strict=True):
            prompt = template.fill({**row, "draft": draft})
            found = _texts(texts, f"row {number}: {critiques}")
            made += [{**columns, "prompt": prompt, "completion": text} for text in found]
    return made


Unit = Mapping[str, Any]


def merged_critiques(
    rows: Sequence[Row],
    *,
    ask: Template,
    units: str = "units",
    good: tuple[str, ...] = ("good",),
    unit: Template = "{text}",
    separator: str = "\n",
    most: Annotated[int, Field(gt=0)] | None = None,
) -> list[Row]:
    """One critique of an answer, made of the units of several critiquers that a meta-critiquer found good.

    A row's units are a list of {"text", "critiquer", "quality", "severity"}: one flaw that a critiquer found, the class
    that the meta-critiquer gave it, and how severe the flaw is. The merged critique has the units of the classes
    `good`, the severest first, in the order that they had where equally severe, and of units with one text the severest
    alone; most: at most so many. unit: how a unit is written, a template of its entries. A row without a good unit
    makes no demonstration. ask: the prompt, a template of the row's columns. Raises ValueError for a unit of another
    form. Source: MultiCritique, arXiv 2410.15287.
    """
    asked, written = RowTemplate(ask), RowTemplate(unit)
    made: list[Row] = []
    for number, row in enumerate(rows):
        listed = _units(column(row, units), f"row {number}: {units}")
        found = sorted((one for one in listed if one["quality"] in good), key=lambda one: -one["severity"])
        severest: dict[str, Unit] = {}
        for one in found:
            severest.setdefault(one["text"].strip().casefold(), one)
        kept = list(severest.values())[:most]
        if kept:
            completion = separator.join(written.fill({**one, "text": one["text"].strip()}) for one in kept)
            made.append({**_others(row, units), "prompt": asked.fill(row), "completion": completion})
    return made


def _units(given: Any, where: str) -> list[Unit]:
    listed = as_json(given)
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise ValueError(f"{where}: expected a list of units, got {short(given)}")
    for place, one in enumerate(listed):
        held = isinstance(one, Mapping) and isinstance(one.get("text"), str) and "quality" in one
        if not held or not isinstance(one.get("severity"), int | float):
            raise ValueError(f"{where}.{place}: expected a unit with text, quality and severity, got {short(one)}")
    return list(listed)


def _list_of(given: Any) -> Any:
    """A list, or the list that a JSON text holds; another text is what it says."""
    held = as_json(given)
    return held if isinstance(held, list) else given


def _texts(given: Any, where: str) -> list[str]:
    """A text as a list of one, or the texts of a list."""
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, Sequence) or not all(isinstance(one, str) for one in listed):
        raise ValueError(f"{where}: expected a text or a list of texts, got {short(given)}")
    return list(listed)


def _others(row: Row, *names: str) -> Row:
    """The row without the columns that these names read."""
    read = {name if name in row else name.partition(".")[0] for name in names}
    return {name: value for name, value in row.items() if name not in read}

"""Rows from files, Hugging Face datasets and generated tasks: a list of dicts, one per row, columns as written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from llmrl.data.tasks import rows_of_task
from llmrl.errors import RecipeError, first_line, nearest, unknown_name
from llmrl.recipe import Rows

Row = dict[str, Any]


def load_rows(source: Rows, part: str = "train") -> list[Row]:
    """The rows of `source`, at most `source.limit` of them; `part` ("train" or "eval") names them in faults.

    A task's rows are generated (llmrl/data/tasks.py).
    Raises RecipeError: missing or unreadable source, unknown task, setting or split, no rows.
    """
    key = f"data.{part}"
    if source.path is not None:
        rows = _from_file(Path(source.path), f"{key}.path", source.limit)
    elif source.task is not None:
        rows = rows_of_task(source, key)
    else:
        rows = _from_dataset(source, key)
    if not rows:
        raise RecipeError(f"{key}: {source.path or source.dataset or source.task} has no rows")
    return rows


def _from_file(path: Path, key: str, limit: int | None) -> list[Row]:
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet, ".csv": _read_csv}
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path(".")
        guess = nearest(path.name, [f.name for f in folder.iterdir() if f.suffix in readers])
        raise RecipeError(f"{key}: no file '{path}'" + (f"; did you mean '{folder / guess}'?" if guess else ""))
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise RecipeError(f"{key}: '{path}' ends in '{path.suffix}', expected one of {', '.join(readers)}")
    try:
        return reader(path, key, limit)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{key}: '{path}' is not UTF-8 text: {error}") from None


def _read_jsonl(path: Path, key: str, limit: int | None) -> list[Row]:
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if len(rows) == limit:
                break
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise RecipeError(
                    f"{key}: {path}:{number}: not valid JSON: {error.msg} (column {error.colno})"
                ) from None
            if not isinstance(row, dict):
                raise RecipeError(f"{key}: {path}:{number}: expected an object, got {type(row).__name__}")
            rows.append(row)
    return rows


def _read_parquet(path: Path, key: str, limit: int | None) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise RecipeError(f"{key}: cannot read '{path}' as parquet: {first_line(error)}") from None
    return (table if limit is None else table.slice(0, limit)).to_pylist()


def _read_csv(path: Path, key: str, limit: int | None) -> list[Row]:
    """Every value stays text: an answer written 007 is not 7."""
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        try:
            for row in reader:
                if len(rows) == limit:
                    break
                if None in row or None in row.values():
                    expected = len(reader.fieldnames or ())
                    fault = f"expected {expected} values, as the header has"
                    raise RecipeError(f"{key}: {path}:{reader.line_num}: {fault}")
                rows.append(row)
        except csv.Error as error:
            raise RecipeError(f"{key}: {path}:{reader.reader.line_num}: not valid CSV: {error}") from None
    return rows


def _from_dataset(source: Rows, key: str) -> list[Row]:
    import datasets
    from datasets.exceptions import DatasetsError

    name = str(source.dataset)
    folder = Path(name)
    saved = folder.is_dir() and any((folder / f).is_file() for f in ("state.json", "dataset_dict.json"))
    try:
        if saved:
            table = datasets.load_from_disk(name)
            if isinstance(table, datasets.DatasetDict):
                if source.split not in table:
                    raise RecipeError(unknown_name(f"{key}.split", source.split, map(str, table), f"split of '{name}'"))
                table = table[source.split]
        else:
            table = datasets.load_dataset(name, source.subset, split=source.split)
    except (OSError, ValueError, DatasetsError) as error:
        wanted = ", ".join(filter(None, (source.subset and f"subset {source.subset}", f"split {source.split}")))
        raise RecipeError(
            f"{key}.dataset: cannot load '{name}' ({wanted}): {first_line(error)}; "
            "expected a dataset's name on the hub or a folder made by save_to_disk"
        ) from None
    if not isinstance(table, datasets.Dataset):
        raise RecipeError(f"{key}.split: '{source.split}' is not one split of '{name}'")
    if source.limit is not None:
        table = table.select(range(min(source.limit, len(table))))
    return [dict(row) for row in table]

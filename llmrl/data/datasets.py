"""Rows from files, Hugging Face datasets and generated tasks: a list of dicts, one per row, columns as written."""

from __future__ import annotations

from pathlib import Path

from llmrl.bounds import out_of_bounds
from llmrl.data.directions import with_directions
from llmrl.data.files import Row, read_files
from llmrl.data.tasks import rows_of_task
from llmrl.errors import RecipeError, first_line, short, unknown_name
from llmrl.recipe_rows import Rows


def load_rows(source: Rows, part: str = "train") -> list[Row]:
    """The rows of `source`, at most `source.limit` of them; `part` ("train" or "eval") names them in faults.

    Files are read in llmrl/data/files.py; a task's rows are generated in llmrl/data/tasks.py.
    Raises RecipeError: missing or unreadable source, unknown task, setting or split, no rows.
    """
    key = f"data.{part}"
    if source.path is not None:
        rows = read_files(source.path, f"{key}.path", source.limit)
    elif source.task is not None:
        rows = rows_of_task(source, key)
    else:
        rows = _from_dataset(source, key)
    if not rows:
        raise RecipeError(f"{key}: {source.path or source.dataset or source.task} has no rows")
    if source.direction is not None:
        rows = with_directions(rows, source.direction, key)
    for index, row in enumerate(rows):
        fault = out_of_bounds(row)
        if fault:
            raise RecipeError(f"{key}: row {index}{_column_of(row)} holds {fault}")
    return rows


def _column_of(row: Row) -> str:
    """Which column of a row is out of bounds."""
    found = next((name for name, value in row.items() if out_of_bounds(value)), None)
    return "" if found is None else f": column {short(found)}"


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

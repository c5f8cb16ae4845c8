"""Data files: which ones a recipe's `path` names, and their rows, a list of dicts with the columns as written.

train.jsonl          that file
parts/*.parquet      the files that match, sorted by name
parts/               the data files in that folder, sorted by name, if they are of one kind
[a.csv, more/*.csv]  those of a.csv, then those that match
"""

from __future__ import annotations

import csv
import glob
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

from llmrl.bounds import DEEPEST, MOST_DIGITS
from llmrl.errors import RecipeError, first_line, nearest, short

Row = dict[str, Any]

COMPRESSED = ".gz"
csv.field_size_limit(2**31 - 1)  # a prompt may be longer than the 131,072 characters that Python allows at first
_MAGIC = re.compile(r"[*?[]")
_SPLIT = re.compile(r"(?:^|[-_.])(train|test|valid|validation|val|dev|eval)(?=[-_.])")


def data_files(path: str | Sequence[str], key: str) -> list[Path]:
    """Return the files that `path` names, in the order of reading.

    Raises RecipeError for what names no file or one without rows' ending, for a folder of files that do not belong
    together, and for a file that is named twice.
    """
    listed = [path] if isinstance(path, str) else list(path)
    files = [file for one in listed for file in _named(one, key)]
    if not files:
        raise RecipeError(f"{key}: an empty list names no file")
    twice = next((file for number, file in enumerate(files) if file in files[:number]), None)
    if twice is not None:
        raise RecipeError(f"{key}: '{twice}' is named twice in {short(path)}")
    return files


def read_files(path: str | Sequence[str], key: str, limit: int | None = None) -> list[Row]:
    """Return the rows of the files that `path` names, at most the first `limit`; raises RecipeError naming the line."""
    rows: list[Row] = []
    for file in data_files(path, key):
        if len(rows) == limit:
            break
        left = None if limit is None else limit - len(rows)
        try:
            rows += _READERS[_kind(file)](file, key, left)
        except UnicodeDecodeError as error:
            raise RecipeError(f"{key}: '{file}' is not UTF-8 text: {error}") from None
        except (OSError, EOFError, zlib.error) as error:  # a damaged .gz raises any of them
            raise RecipeError(f"{key}: cannot read '{file}': {first_line(error)}") from None
    return rows


def _kind(file: Path) -> str:
    """The ending that says how a file is read; "" if it is none of ours."""
    name = file.name.lower()
    packed = name.endswith(COMPRESSED)
    ending = Path(name.removesuffix(COMPRESSED)).suffix
    return ending if ending in _READERS and not (packed and ending == ".parquet") else ""


def _named(path: str, key: str) -> list[Path]:
    one = Path(path).expanduser()
    if one.is_dir():
        return _in_folder(one, key)
    if one.is_file():
        found = [one]
    else:
        matches = sorted(glob.glob(str(one), recursive=True)) if _MAGIC.search(path) else []
        found = [file for match in matches if (file := Path(match)).is_file()]
    if not found:
        what = "no file matches" if _MAGIC.search(path) else "no file"
        guess = _nearest(one)
        raise RecipeError(f"{key}: {what} '{path}'" + (f"; did you mean '{guess}'?" if guess else ""))
    other = next((file for file in found if not _kind(file)), None)
    if other is not None:
        raise RecipeError(f"{key}: '{other}' ends in '{other.suffix}', expected one of {_endings()}")
    return found


def _in_folder(folder: Path, key: str) -> list[Path]:
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise RecipeError(f"{key}: '{folder}' was made by save_to_disk; name it as {key.rpartition('.')[0]}.dataset")
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith((".", "_")))
    kinds: dict[str, list[Path]] = {}
    for file in files:
        if _kind(file):
            kinds.setdefault(_kind(file), []).append(file)
    if not kinds:
        guess = _nearest(folder / "*")
        hint = f"; its folders' are named by a pattern, such as '{guess}'" if guess else ""
        raise RecipeError(f"{key}: no file in '{folder}' ends in one of {_endings()}{hint}")
    if len(kinds) > 1:
        counts = " and ".join(f"{len(found)} {kind}" for kind, found in kinds.items())
        raise RecipeError(
            f"{key}: '{folder}' holds {counts} files; name one kind, such as '{folder}/*{next(iter(kinds))}'"
        )
    [(kind, found)] = kinds.items()
    splits = {match[1]: file for file in found if (match := _SPLIT.search(file.name.lower()))}
    if len(splits) > 1:
        split, file = next(iter(sorted(splits.items())))
        raise RecipeError(
            f"{key}: '{folder}' holds the files of several splits ({', '.join(sorted(splits))}); name those of one, "
            f"such as '{folder}/*{split}*{''.join(file.suffixes[-2:]) if file.suffix == COMPRESSED else kind}'"
        )
    return found


def _nearest(path: Path) -> Path | None:
    """The existing file or folder whose name is nearest to the first part of `path` that leads nowhere."""
    parent = next((one for one in path.parents if one.is_dir()), None)
    if parent is None:
        return None
    part, *below = path.relative_to(parent).parts
    if below and not _MAGIC.search(part):
        guess = nearest(part, [one.name for one in parent.iterdir() if one.is_dir()])
        return parent / guess if guess else None
    files = [file for file in parent.rglob("*") if _kind(file)] if below or part == "*" else parent.iterdir()
    names = {str(file.relative_to(parent)): file for file in sorted(files) if _kind(file)}
    guess = nearest(str(path.relative_to(parent)), names)
    return names[guess] if guess else next(iter(names.values()), None) if _MAGIC.search(str(path)) else None


def _endings() -> str:
    return f"{', '.join(_READERS)}, and all but .parquet also with {COMPRESSED}"


def _text(path: Path, newline: str | None = None) -> IO[str]:
    opened: Any = gzip.open if path.name.lower().endswith(COMPRESSED) else open
    return opened(path, "rt", encoding="utf-8-sig", newline=newline)


def _read_jsonl(path: Path, key: str, limit: int | None) -> list[Row]:
    with _text(path) as lines:
        return list(islice(_lines(lines, path, key), limit))


def _lines(lines: IO[str], path: Path, key: str) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"{key}: {path}:{number}: {_fault(error)}") from None
        if not isinstance(row, dict):
            raise RecipeError(f"{key}: {path}:{number}: expected an object, got {type(row).__name__}")
        yield row


def _read_json(path: Path, key: str, limit: int | None) -> list[Row]:
    """Rows of a list of objects, of an object that holds one such list, or of an object in each line."""
    with _text(path) as file:
        text = file.read()
    try:
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data" and "\n" in text[: error.pos]:
            return _read_jsonl(path, key, limit)
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise RecipeError(f"{key}: {path}{line}: {_fault(error)}") from None
    lists = {name: rows for name, rows in held.items() if _are_rows(rows)} if isinstance(held, dict) else {"": held}
    if len(lists) != 1 or not _are_rows(rows := next(iter(lists.values()))):
        found = f"an object with {', '.join(map(repr, held))}" if isinstance(held, dict) else short(held)
        expected = "a list of objects, an object that holds one such list, or an object in each line"
        raise RecipeError(f"{key}: '{path}' holds {found}; expected {expected}")
    return rows[:limit]


def _fault(error: ValueError | RecursionError) -> str:
    """Why a text cannot be read as JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON: {error.msg} (column {error.colno})"
    if isinstance(error, RecursionError):
        return f"holds values nested deeper than {DEEPEST} levels"
    return f"holds an integer of more than {MOST_DIGITS} digits; write it in quotes, as text"


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


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
    with _text(path, newline="") as lines:
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


_READERS: dict[str, Callable[[Path, str, int | None], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}

"""Records on disk: lines of JSON, appended to segments, of which the oldest are deleted.

replay/STAGE/NAME/000000000000.jsonl     records 0 to 511
replay/STAGE/NAME/000000000512.jsonl     records 512 and after
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmrl.errors import RecipeError


class Segments:
    """Numbered records in the segments of a folder; `held` are those from `first` to `count` that can be read.

    writes: whether this process appends and deletes; others read what is there.
    """

    def __init__(self, folder: Path, *, per_segment: int, writes: bool):
        self.folder = folder
        self.per_segment = per_segment
        self.first = self.count = 0
        self._writes = writes
        self._places: dict[int, tuple[Path, int, int]] = {}
        self._begun = False

    def append(self, records: Sequence[Any]) -> None:
        """Add records at the end; raises OSError if the disk is full. What a killed process left behind is deleted."""
        if self._writes and not self._begun:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
        self._begun = True
        lines: dict[Path, list[bytes]] = {}
        for record in records:
            path, line = self._segment(self.count), (json.dumps(record) + "\n").encode()
            before = self._places.get(self.count - 1)
            start = before[1] + before[2] if before and before[0] == path else 0
            lines.setdefault(path, []).append(line)
            self._places[self.count] = path, start, len(line)
            self.count += 1
        for path, added in lines.items() if self._writes else ():
            with path.open("ab") as file:
                file.write(b"".join(added))

    def read(self, number: int) -> Any:
        """The record of that number."""
        path, start, length = self._places[number]
        with path.open("rb") as file:
            file.seek(start)
            return json.loads(file.read(length))

    def forget(self, first: int) -> None:
        """Records before `first` are not read any more."""
        for number in range(self.first, first):
            self._places.pop(number, None)
        self.first = max(self.first, first)

    def prune(self, first: int) -> None:
        """Delete the segments whose records all come before `first`."""
        for path in self._paths() if self._writes else ():
            if _number(path) + self.per_segment <= first:
                path.unlink()

    def flush(self) -> None:
        """Wait until all that was appended has reached the disk."""
        for path in self._paths()[-2:] if self._writes else ():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def rewind(self, first: int, count: int) -> None:
        """Go back to the records from `first` to `count`: what came after is cut off, a torn last record with it.

        Raises RecipeError if some of them are not there.
        """
        self._places, self.first, self.count, self._begun = {}, first, count, True
        for path in self._paths():
            number, start = _number(path), 0
            if number >= count and self._writes:
                path.unlink()
                continue
            lines = path.read_bytes().split(b"\n")
            for line in lines[: max(0, min(len(lines) - 1, count - number))]:
                if number >= first:
                    self._places[number] = path, start, len(line) + 1
                number, start = number + 1, start + len(line) + 1
            if self._writes and start < path.stat().st_size:
                os.truncate(path, start)
        if missing := [number for number in range(first, count) if number not in self._places]:
            raise RecipeError(
                f"{self.folder}: the record {missing[0]} of {count} is not there, which the checkpoint needs; "
                f"resume from another checkpoint, or start another run with run_dir=..."
            )

    def _segment(self, number: int) -> Path:
        return self.folder / f"{number // self.per_segment * self.per_segment:012d}.jsonl"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))


def _number(path: Path) -> int:
    return int(path.stem)

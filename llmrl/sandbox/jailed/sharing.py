"""The folder that a program and its tests both write to: each process has its own, and tells the other what changes.

A change is told as {path in the folder: content of a file, True for a folder, False for what was removed}. Links are
not told. Where the two processes have different folders, as in a tier without namespaces, paths do not fit each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Change = bytes | bool


class Folder:
    """This process's folder, in which it has started; nothing is told of any other folder."""

    def __init__(self):
        self._home = os.getcwd() if os.getcwd() == os.environ.get("HOME") else ""
        self._known: dict[str, Any] = dict(self._entries())
        self._changed = self._time()

    def tell(self, ask: Callable[..., Any]) -> None:
        """Tell what has changed since the last time."""
        if not self._home or (not self._known and self._time() == self._changed):
            return
        self._changed, now = self._time(), dict(self._entries())
        old, self._known = self._known, now
        changes: dict[str, Change] = dict.fromkeys(old.keys() - now.keys(), False)
        changes |= {path: self._content(path, state) for path, state in now.items() if old.get(path) != state}
        if changes:
            ask("files", changes)

    def apply(self, changes: Mapping[str, Change]) -> None:
        """Make the other process's changes here; raises ValueError for a path that leads out of the folder."""
        for path, change in sorted(changes.items()):
            if path.startswith("/") or ".." in path.split("/") or not self._home:
                raise ValueError(f"{path} is outside of the folder")
            place = os.path.join(self._home, path)
            if change is True:
                os.makedirs(place, exist_ok=True)
            elif change is False:
                _remove(place)
            else:
                os.makedirs(os.path.dirname(place), exist_ok=True)
                with open(place, "wb") as file:
                    file.write(change)
        self._known, self._changed = dict(self._entries()), self._time()

    def _time(self) -> int:
        return os.stat(self._home).st_mtime_ns if self._home else 0

    def _entries(self, inside: str = "") -> Iterator[tuple[str, Any]]:
        if not self._home:
            return
        with os.scandir(os.path.join(self._home, inside)) as entries:
            for entry in entries:
                path = os.path.join(inside, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    yield path, True
                    yield from self._entries(path)
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    yield path, (status.st_mtime_ns, status.st_size, status.st_ino)

    def _content(self, path: str, state: Any) -> Change:
        if state is True:
            return True
        with open(os.path.join(self._home, path), "rb") as file:
            return file.read()


def _remove(place: str) -> None:
    """Remove a file, or a folder with all that it holds."""
    if os.path.isdir(place) and not os.path.islink(place):
        for name in os.listdir(place):
            _remove(os.path.join(place, name))
        os.rmdir(place)
    elif os.path.lexists(place):
        os.unlink(place)

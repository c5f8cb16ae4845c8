"""Spans: named parts of the work whose time is recorded while a profile is made.

    with recording() as spans:
        with span("train"):
            with span("forward"): ...          # spans.seconds[("train", "forward")]

Outside of `recording` a span costs next to nothing. Spans may contain `await`, and may run in threads that
`asyncio.to_thread` starts: a span's parent is the span in which its task was created.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

Path = tuple[str, ...]


class Spans:
    """The seconds of each path of spans, and how often it was entered.

    The same path entered several times at once counts once. Where other spans of one parent overlap, the time belongs
    to the one that is open longest: to sampling, while rewards of finished completions are computed beside it.
    """

    def __init__(self, wait: Callable[[], None] | None = None) -> None:
        self.seconds: dict[Path, float] = defaultdict(float)
        self.calls: dict[Path, int] = defaultdict(int)
        self._wait = wait or (lambda: None)
        self._open: dict[Path, dict[Path, int]] = defaultdict(dict)
        self._since: dict[Path, float] = {}
        self._lock = Lock()

    def enter(self, path: Path) -> None:
        """Open a span."""
        self._wait()
        with self._lock:
            open_ = self._turn(path[:-1])
            open_[path] = open_.get(path, 0) + 1
            self.calls[path] += 1

    def leave(self, path: Path) -> None:
        """Close a span."""
        self._wait()
        with self._lock:
            open_ = self._turn(path[:-1])
            open_[path] -= 1
            if not open_[path]:
                del open_[path]

    def _turn(self, parent: Path) -> dict[Path, int]:
        """The parent's open spans, after the time since their last change was given to the first of them."""
        now, open_ = time.perf_counter(), self._open[parent]
        if open_:
            self.seconds[next(iter(open_))] += now - self._since[parent]
        self._since[parent] = now
        return open_


_recorder: ContextVar[Spans | None] = ContextVar("recorder", default=None)
_path: ContextVar[Path] = ContextVar("path", default=())


@contextmanager
def recording(wait: Callable[[], None] | None = None) -> Iterator[Spans]:
    """Record the spans inside; wait: waits until the device has done its work, so that each span has its own."""
    spans = Spans(wait)
    token = _recorder.set(spans)
    try:
        yield spans
    finally:
        _recorder.reset(token)


@contextmanager
def span(name: str) -> Iterator[None]:
    """A named part of the work; inside another span it is a part of that one."""
    spans = _recorder.get()
    if spans is None:
        yield
        return
    path = (*_path.get(), name)
    token = _path.set(path)
    spans.enter(path)
    try:
        yield
    finally:
        spans.leave(path)
        _path.reset(token)

"""Signals that ask a run to stop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Signals:
    """Turns the first SIGINT or SIGTERM into a request to stop; a second one ends the process at once.

    Signals within one second are one request: a terminal sends SIGINT to all processes, and the launcher passes it on.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > 1.0:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

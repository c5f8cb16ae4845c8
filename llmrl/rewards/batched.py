"""Workers for many short calls: those that are made at the same time are sent to a process as one task."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from llmrl.rewards.workers import CrashError, Workers

BATCH_CALLS = 256
BATCH_SECONDS = 1.0


class _Waiting(NamedTuple):
    args: Sequence[Any]
    result: asyncio.Future[tuple[Any, ...] | None]


class Batched(Workers):
    """The processes of `workers`, for the calls of one function: to send a short call takes longer than to run it."""

    def __init__(self, workers: Workers):
        super().__init__(workers.count)
        self._workers = workers
        self._waiting: list[_Waiting] = []
        self._batches: set[asyncio.Task[None]] = set()

    def warm(self, modules: Iterable[str]) -> None:
        self._workers.warm(modules)

    async def run(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], deadline_seconds: float
    ) -> Any:
        """As Workers.run; a call that a batch failed on or left over is run alone, and fails as in training."""
        loop = asyncio.get_running_loop()
        call = _Waiting(args, loop.create_future())
        if not self._waiting:
            loop.call_soon(lambda: self._send(function, kwargs, deadline_seconds))
        self._waiting.append(call)
        result = await call.result
        return result[0] if result else await self._workers.run(function, args, kwargs, deadline_seconds)

    def _send(self, function: Callable[..., Any], kwargs: Mapping[str, Any], deadline_seconds: float) -> None:
        calls, self._waiting = self._waiting, []
        size = min(BATCH_CALLS, math.ceil(len(calls) / self.count))
        for start in range(0, len(calls), size):
            batch = asyncio.ensure_future(self._run(function, calls[start : start + size], kwargs, deadline_seconds))
            self._batches.add(batch)  # the event loop itself keeps no task alive
            batch.add_done_callback(self._batches.discard)

    async def _run(
        self, function: Callable[..., Any], calls: Sequence[_Waiting], kwargs: Mapping[str, Any], deadline: float
    ) -> None:
        results = []
        with contextlib.suppress(TimeoutError, ValueError, CrashError):
            given = [function, [call.args for call in calls], kwargs]
            results = await self._workers.run(results_of, given, {}, deadline + BATCH_SECONDS)
        for call, result in zip_longest(calls, results):
            call.result.set_result(result)


def results_of(
    function: Callable[..., Any], calls: Sequence[Sequence[Any]], kwargs: Mapping[str, Any]
) -> list[tuple[Any, ...]]:
    """The results of the calls that began within BATCH_SECONDS, each in a tuple; an empty tuple for one that failed."""
    end, results = time.monotonic() + BATCH_SECONDS, []
    for args in calls:
        if time.monotonic() > end:
            break
        try:
            results.append((function(*args, **kwargs),))
        except Exception:
            results.append(())
    return results

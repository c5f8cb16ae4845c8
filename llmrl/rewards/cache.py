"""A cache of reward functions' results by a key, so that equal completions are graded once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

MAX_RESULTS = 100_000

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


def cached_by(key: Callable[..., Hashable | None]) -> Callable[[Function], Function]:
    """Marks a reward function whose results are equal for equal keys; a key of None is never cached.

    `key` takes the function's arguments. It runs in the trainer's process, once per completion: it must be cheap, and
    safe with any completion.
    """

    def mark(function: Function) -> Function:
        setattr(function, "cache_key", key)  # noqa: B010  a function has no such attribute for a type checker
        return function

    return mark


def cache_key(function: Callable[..., Any], args: Sequence[Any], settings: Mapping[str, Any]) -> Hashable | None:
    """The call's key; None for a function without the mark, and if `key` raises, as the call then does too."""
    key = getattr(function, "cache_key", None)
    if key is None:
        return None
    try:
        found = key(*args, **settings)
        hash(found)
    except Exception:
        return None
    return found


class ResultCache(Generic[Result]):
    """The results of the last `size` keys that were asked for. hits: requests that needed no call of their own."""

    def __init__(self, size: int = MAX_RESULTS):
        self.hits = 0
        self._size = size
        self._results: OrderedDict[Hashable, Result] = OrderedDict()
        self._running: dict[Hashable, _Running[Result]] = {}

    async def get(
        self, key: Hashable, call: Callable[[], Awaitable[Result]], *, keep: Callable[[Result], bool]
    ) -> Result:
        """The key's result, kept or from a running call, else that of `call`, which is kept if `keep(result)`.

        A shared call is cancelled once all that wait for it are cancelled.
        """
        if key in self._results:
            self.hits += 1
            self._results.move_to_end(key)
            return self._results[key]
        running = self._running.get(key)
        if running is not None and running.task.get_loop() is asyncio.get_running_loop():
            self.hits += 1
        else:
            running = self._running[key] = _Running(asyncio.ensure_future(self._called(key, call, keep)))
        running.waiting += 1
        try:
            return await asyncio.shield(running.task)
        finally:
            running.waiting -= 1
            if not running.waiting:
                running.task.cancel()  # without effect on one that is done
                if self._running.get(key) is running:
                    del self._running[key]

    async def _called(
        self, key: Hashable, call: Callable[[], Awaitable[Result]], keep: Callable[[Result], bool]
    ) -> Result:
        result = await call()
        self._running.pop(key, None)
        if keep(result):
            self._results[key] = result
            while len(self._results) > self._size:
                self._results.popitem(last=False)
        return result


@dataclass
class _Running(Generic[Result]):
    task: asyncio.Task[Result]
    waiting: int = 0

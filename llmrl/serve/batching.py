"""Dynamic batching: texts that wait at the same time are scored together, within a budget of tokens."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

Score = list[float]
MOST_SECONDS_TO_RETRY = 60
MOST_PADDING = 0.2
"""The largest share of a batch's places without a token."""


class QueueFullError(Exception):
    """The queue has no room for a request. seconds: the time in which there should be room."""

    def __init__(self, seconds: int):
        super().__init__(f"the queue is full; expected to have room in {seconds} seconds")
        self.seconds = seconds


class TooLargeError(ValueError):
    """A request that would not fit into an empty queue."""


@dataclass(eq=False)
class _Waiting:
    token_ids: Sequence[int]
    result: asyncio.Future[Score] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Scores rows of tokens in batches, one batch at a time, in a thread of its own.

    score: rows to scores. batch_tokens: the most places of a batch, padding included; a longer row is a batch alone.
    queue_tokens: the most tokens that wait. on_batch: called with the rows of each batch that was scored.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Sequence[int]]], list[Score]],
        *,
        batch_tokens: int,
        queue_tokens: int,
        on_batch: Callable[[Sequence[Sequence[int]]], None] = lambda rows: None,
    ):
        self._score, self._on_batch = score, on_batch
        self.batch_tokens, self.queue_tokens = batch_tokens, queue_tokens
        self._waiting: list[_Waiting] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scoring")
        self._worker: asyncio.Task[None] | None = None
        self._tokens_per_second = math.nan

    @property
    def waiting_tokens(self) -> int:
        """The tokens of the texts that wait for a batch."""
        return sum(len(one.token_ids) for one in self._waiting)

    @property
    def waiting_texts(self) -> int:
        """The texts that wait for a batch."""
        return len(self._waiting)

    async def scores(self, rows: Sequence[Sequence[int]]) -> list[Score]:
        """The scores of a request's rows, which are queued together or not at all.

        Raises QueueFullError, TooLargeError, and whatever the model raises. A cancelled call leaves the queue.
        """
        asked = sum(map(len, rows))
        if asked > self.queue_tokens:
            raise TooLargeError(f"{asked} tokens in one request, expected at most {self.queue_tokens}")
        if self.waiting_tokens + asked > self.queue_tokens:
            raise QueueFullError(self._seconds_to_retry(asked))
        own = [_Waiting(row) for row in rows]
        self._waiting += own
        if self._worker is None or self._worker.done():
            self._worker = asyncio.ensure_future(self._work())
        try:
            return await asyncio.gather(*(one.result for one in own))
        finally:
            for one in own:
                one.result.cancel()
            self._waiting = [one for one in self._waiting if not one.result.done()]

    def close(self) -> None:
        """End the thread when its batch is done."""
        self._thread.shutdown(wait=False)

    async def _work(self) -> None:
        while self._waiting:
            await self._run(self._next_batch())

    def _next_batch(self) -> list[_Waiting]:
        """The text that has waited longest, with those nearest to it in length that the budget has room for."""
        first, *others = self._waiting
        batch, longest, tokens = [first], len(first.token_ids), len(first.token_ids)
        for one in sorted(others, key=lambda one: abs(len(one.token_ids) - len(first.token_ids))):
            length = len(one.token_ids)
            most = max(longest, length)
            places = most * (len(batch) + 1)
            if places > self.batch_tokens or places - tokens - length > MOST_PADDING * places:
                break
            batch.append(one)
            longest, tokens = most, tokens + length
        taken = set(map(id, batch))
        self._waiting = [one for one in self._waiting if id(one) not in taken]
        return batch

    async def _run(self, batch: list[_Waiting]) -> None:
        rows, started = [one.token_ids for one in batch], time.monotonic()
        try:
            scores = await asyncio.get_running_loop().run_in_executor(self._thread, self._score, rows)
        except Exception as error:
            for one in batch:
                if not one.result.done():
                    one.result.set_exception(error)
            return
        self._tokens_per_second = sum(map(len, rows)) / max(time.monotonic() - started, 1e-6)
        self._on_batch(rows)
        for one, score in zip(batch, scores, strict=True):
            if not one.result.done():
                one.result.set_result(score)

    def _seconds_to_retry(self, asked: int) -> int:
        """The seconds until `asked` tokens should have room, by the speed of the last batch."""
        over = self.waiting_tokens + asked - self.queue_tokens
        seconds = over / self._tokens_per_second
        return 1 if math.isnan(seconds) else min(MOST_SECONDS_TO_RETRY, max(1, math.ceil(seconds)))

from __future__ import annotations

import asyncio
import threading

import pytest

from llmrl.serve.batching import Batcher, QueueFullError, TooLargeError


class Recorder:
    """Scores a row with its sum, and holds every batch until `go` is set."""

    def __init__(self, **bounds):
        self.go, self.batches = threading.Event(), []
        self.batcher = Batcher(self.score, on_batch=self.batches.append, **bounds)

    def score(self, rows):
        assert self.go.wait(10)
        return [[float(sum(row))] for row in rows]


async def begun(recorder, *rows) -> asyncio.Task:
    """A request that is queued, or runs."""
    task = asyncio.ensure_future(recorder.batcher.scores(rows))
    await asyncio.sleep(0.02)
    return task


def test_what_waits_is_batched_by_length_within_the_budget():
    async def main():
        recorder = Recorder(batch_tokens=8, queue_tokens=100)
        first = await begun(recorder, [1])  # runs alone, and the others queue behind it
        second = await begun(recorder, [2, 2, 2], [3] * 6)
        third = await begun(recorder, [4, 4], [5, 5, 5, 5])
        recorder.go.set()
        assert await first == [[1.0]]
        assert await second == [[6.0], [18.0]]
        assert await third == [[8.0], [20.0]]
        # [2, 2, 2] has waited longest; two rows of 4 places fill the budget of 8, three would not fit
        assert recorder.batches == [[[1]], [[2, 2, 2], [4, 4]], [[3] * 6], [[5, 5, 5, 5]]]

    asyncio.run(main())


def test_texts_of_very_different_length_do_not_pad_each_other():
    async def main():
        recorder = Recorder(batch_tokens=100, queue_tokens=100)
        first = await begun(recorder, [1])
        others = await begun(recorder, [2] * 10, [3], [4] * 8, [5], [6] * 9)
        recorder.go.set()
        await asyncio.gather(first, others)
        assert recorder.batches == [[[1]], [[2] * 10, [6] * 9, [4] * 8], [[3], [5]]]  # 3 of 30 places are padding

    asyncio.run(main())


def test_a_full_queue_takes_no_part_of_a_request():
    async def main():
        recorder = Recorder(batch_tokens=8, queue_tokens=10)
        running, waiting = await begun(recorder, [1]), await begun(recorder, [2] * 6)
        with pytest.raises(QueueFullError) as full:
            await recorder.batcher.scores([[3], [4] * 4])
        assert full.value.seconds >= 1
        with pytest.raises(TooLargeError, match="11 tokens in one request, expected at most 10"):
            await recorder.batcher.scores([[1] * 11])
        assert recorder.batcher.waiting_tokens == 6
        waiting.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert recorder.batcher.waiting_tokens == 0  # who leaves makes room
        recorder.go.set()
        assert await running == [[1.0]]
        assert recorder.batches == [[[1]]]

    asyncio.run(main())


def test_a_failing_batch_fails_its_requests_alone():
    def score(rows):
        if [0] in rows:
            raise MemoryError("too long")
        return [[1.0] for _ in rows]

    async def main():
        batcher = Batcher(score, batch_tokens=1, queue_tokens=10)
        found = await asyncio.gather(batcher.scores([[0]]), batcher.scores([[1]]), return_exceptions=True)
        assert isinstance(found[0], MemoryError)
        assert found[1] == [[1.0]]

    asyncio.run(main())

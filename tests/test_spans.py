"""Spans: what each of them is given of the time."""

from __future__ import annotations

import asyncio
import time

import pytest

from llmrl import spans as module
from llmrl.spans import Spans, recording, span


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_a_span_inside_another_is_a_part_of_it(clock):
    with recording() as spans:
        for _ in range(2):
            with span("train"):
                clock(1)
                with span("forward"):
                    clock(3)
    assert dict(spans.seconds) == {("train",): 8.0, ("train", "forward"): 6.0}
    assert dict(spans.calls) == {("train",): 2, ("train", "forward"): 2}


def test_where_spans_overlap_the_one_that_is_open_longest_has_the_time(clock):
    spans = Spans()
    sampler, rewards = ("collect", "sampler"), ("collect", "rewards")
    spans.enter(sampler)
    spans.enter(sampler)
    clock(1)
    spans.leave(sampler)
    spans.enter(rewards)  # of the first group, while the second is still being sampled
    clock(10)
    spans.leave(sampler)
    clock(100)
    spans.leave(rewards)
    clock(1000)
    assert dict(spans.seconds) == {sampler: 11.0, rewards: 100.0}


def test_tasks_and_threads_belong_to_the_span_that_created_them():
    async def work() -> None:
        with span("sampler"):
            await asyncio.to_thread(generate)

    def generate() -> None:
        with span("engine"):
            time.sleep(0.05)

    async def both() -> None:
        await asyncio.gather(work(), work())

    with recording() as spans, span("collect"):
        asyncio.run(both())
    assert spans.calls == {("collect",): 1, ("collect", "sampler"): 2, ("collect", "sampler", "engine"): 2}
    # two threads at once count once
    assert 0.05 <= spans.seconds["collect", "sampler", "engine"] <= spans.seconds[("collect",)]


def test_nothing_is_recorded_outside_and_a_failure_closes_its_spans(clock):
    with span("before"):
        clock(1)
    with recording() as spans:
        with pytest.raises(ValueError, match="no"), span("train"):
            clock(1)
            raise ValueError("no")
        clock(5)
    assert dict(spans.seconds) == {("train",): 1.0}


def test_the_device_is_waited_for_before_the_clock_is_read(clock):
    with recording(lambda: clock(2)) as spans, span("forward"):
        pass
    assert spans.seconds[("forward",)] == 2.0  # what was still under way at its end is its own

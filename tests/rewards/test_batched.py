"""Short calls go to a process together; one that fails or hangs is told as if it had gone alone."""

from __future__ import annotations

import asyncio
import time

import hostile_rewards
import pytest

from llmrl.rewards import batched
from llmrl.rewards.batched import Batched, results_of
from llmrl.rewards.workers import Workers


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as pool:
        pool.warm(["hostile_rewards"])
        yield pool


def all_of(workers: Workers, function, texts: list[str], deadline: float = 10.0) -> list:
    async def together():
        many = Batched(workers)
        return await asyncio.gather(
            *(many.run(function, [text], {}, deadline) for text in texts), return_exceptions=True
        )

    return asyncio.run(together())


def test_each_call_has_its_own_result(workers):
    texts = ["a" * number for number in range(600)]
    assert all_of(workers, hostile_rewards.length, texts) == [float(number) for number in range(600)]


def test_calls_made_at_once_are_few_tasks(workers, monkeypatch):
    tasks, run = [], workers.run

    def counted(function, args, *rest):
        tasks.append(len(args[1]))
        return run(function, args, *rest)

    monkeypatch.setattr(workers, "run", counted)
    all_of(workers, hostile_rewards.length, ["a"] * 600)
    assert tasks == [256, 256, 88]


def test_a_call_that_hangs_costs_the_others_nothing(workers):
    found = all_of(workers, hostile_rewards.hang_on_hang, ["a", "hang", "b"], deadline=0.5)
    assert isinstance(found[1], TimeoutError) and "deadline of 0.5 seconds" in str(found[1])
    assert [found[0], found[2]] == all_of(workers, hostile_rewards.hang_on_hang, ["a", "b"])


def test_a_call_that_fails_has_its_own_message(workers):
    found = all_of(workers, int, ["1", "x", "3"])
    assert [found[0], found[2]] == [1, 3]
    assert isinstance(found[1], ValueError) and "invalid literal for int() with base 10: 'x'" in str(found[1])


def test_slow_calls_are_left_to_be_run_alone(monkeypatch):
    monkeypatch.setattr(batched, "BATCH_SECONDS", 0.05)
    assert results_of(time.sleep, [[0.2], [0.2]], {}) == [(None,)]
    assert results_of(int, [["1"], ["x"]], {}) == [(1,), ()]

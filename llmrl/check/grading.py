"""Grading of many completions by one reward: in batches, and within a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from llmrl.rewards.base import Rewards
from llmrl.rewards.batched import Batched
from llmrl.rewards.reward import Reward
from llmrl.rewards.workers import CrashError, Workers
from llmrl.types import Group

Item = TypeVar("Item")
Result = TypeVar("Result")

FIRST_ROUNDS = (1, 4, 16, 64)
LARGEST_ROUND = 512


def grades_cheaply(reward: Reward) -> bool:
    """Whether a reward may be asked about every row: it is no judge, which costs, and compares no answers."""
    return not (reward.is_async or reward.reads_group)


async def score_within(reward: Reward, groups: Sequence[Group], workers: Workers, seconds: float) -> int:
    """Score the groups in order, as many as can be expected to take `seconds`; returns how many were scored.

    The first group is always scored, and none after a round that `all_failed`. No call is repeated.
    """
    rewards = Rewards([replace(reward, retries=0, moves=())], workers=Batched(workers))
    return len(await _within(seconds, groups, rewards.score, all_failed))


async def understood(reward: Reward, golds: Sequence[Any], workers: Workers, seconds: float) -> list[bool]:
    """Whether the verifier's Reading understands each gold, of as many as can be expected to take `seconds`."""
    understands, batched = reward.piece.mark("reading").understands, Batched(workers)

    async def ask(gold: Any) -> bool:
        try:
            return bool(await batched.run(understands, [gold], {}, reward.deadline_seconds))
        except (TimeoutError, ValueError, CrashError):
            return False

    return await _within(seconds, golds, ask)


async def _within(
    seconds: float,
    items: Sequence[Item],
    handle: Callable[[Item], Awaitable[Result]],
    ends_with: Callable[[Sequence[Item]], bool] = lambda part: False,
) -> list[Result]:
    """The results of the items that were handled, in rounds of growing size."""
    begun, took, results = time.monotonic(), 0.0, []
    for size in _rounds(len(items)):
        if results and time.monotonic() - begun + took * size > seconds:
            break
        started, part = time.monotonic(), items[len(results) : len(results) + size]
        results += await asyncio.gather(*(handle(item) for item in part))
        took = (time.monotonic() - started) / size
        if ends_with(part):
            break
    return results


def all_failed(groups: Sequence[Group]) -> bool:
    """Whether there are trajectories, and the reward crashed or ran out of time on every one.

    A failure of another kind comes quickly, and the next row may be one that the reward can use.
    """
    failures = [one.failure for group in groups for one in group.trajectories]
    return bool(failures) and all(failure and failure.kind != "invalid" for failure in failures)


def _rounds(count: int) -> Iterable[int]:
    """Growing rounds that sum to `count`."""
    sizes = iter(FIRST_ROUNDS)
    while count > 0:
        size = min(count, next(sizes, LARGEST_ROUND))
        yield size
        count -= size

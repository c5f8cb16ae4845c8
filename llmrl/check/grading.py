"""Grading of many completions by one reward: in batches, and within a time."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from llmrl.rewards.base import Reward, Rewards
from llmrl.rewards.batched import Batched
from llmrl.rewards.workers import Workers
from llmrl.types import Group

FIRST_ROUNDS = (1, 4, 16, 64)
LARGEST_ROUND = 512


def grades_cheaply(reward: Reward) -> bool:
    """Whether a reward may be asked about every row: it is no judge, which costs, and sees one answer at a time."""
    return not (inspect.iscoroutinefunction(reward.piece.function) or reward.per_group)


async def score_within(reward: Reward, groups: Sequence[Group], workers: Workers, seconds: float) -> int:
    """Score the groups in order, as many as can be expected to take `seconds`; returns how many were scored.

    The first group is always scored, and none after a round in which every call failed. No call is repeated.
    """
    rewards = Rewards([replace(reward, retries=0)], workers=Batched(workers))
    begun, done, took = time.monotonic(), 0, 0.0
    for size in _rounds(len(groups)):
        expected = took * size
        if done and time.monotonic() - begun + expected > seconds:
            break
        started = time.monotonic()
        part = groups[done : done + size]
        await asyncio.gather(*(rewards.score(group) for group in part))
        took, done = (time.monotonic() - started) / size, done + size
        if all_failed(part):
            break
    return done


def all_failed(groups: Sequence[Group]) -> bool:
    """Whether there are trajectories, and the reward failed on every one."""
    trajectories = [one for group in groups for one in group.trajectories]
    return bool(trajectories) and all(one.failure for one in trajectories)


def _rounds(count: int) -> Iterable[int]:
    """Growing rounds that sum to `count`."""
    sizes = iter(FIRST_ROUNDS)
    while count > 0:
        size = min(count, next(sizes, LARGEST_ROUND))
        yield size
        count -= size

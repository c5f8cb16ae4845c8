from __future__ import annotations

import asyncio
import math

import pytest

from llmrl.marks import takes_seconds
from llmrl.rewards.base import Rewards
from llmrl.rewards.cache import ResultCache, cache_key, cached_by
from llmrl.rewards.reward import Reward
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, Group, Prompt, Score, Trajectory, Turn

CALLS: list[str] = []


def by_text(completion, row, *, scale=1.0):
    return (completion, scale)


@cached_by(by_text)
async def counted(completion, row, *, scale: float = 1.0):
    CALLS.append(completion)
    await asyncio.sleep(0.02)
    if completion == "raises" and CALLS.count("raises") <= row.get("failures", 99):
        raise RuntimeError("no")
    if completion == "nan":
        return math.nan
    return Score(scale * len(completion), outcome="counted")


@cached_by(lambda completion: None)
async def never_cached(completion):
    CALLS.append(completion)
    return 1.0


@cached_by(lambda completion: [completion])
async def unhashable_key(completion):
    CALLS.append(completion)
    return 1.0


@cached_by(lambda completion: 1 / 0)
async def key_raises(completion):
    CALLS.append(completion)
    return 1.0


async def unmarked(completion):
    CALLS.append(completion)
    return 1.0


@cached_by(lambda completion: completion)
async def by_turns(completion):
    CALLS.append(completion)
    return Score(1.0, turn_values=(0.5,))


@cached_by(lambda group: tuple(one.text for one in group.trajectories))
async def of_group(group):
    CALLS.append("group")
    return [float(len(one.text)) for one in group.trajectories]


@pytest.fixture(autouse=True)
def no_calls():
    CALLS.clear()


def rewards(name: str, **settings) -> Rewards:
    return Rewards.from_specs({f"test_reward_cache:{name}": {"retries": 0, **settings}}, workers=Workers(1))


def group(*texts: str, row: dict | None = None, turns: int = 1) -> Group:
    prompt = Prompt("p0", (1,), "a prompt", row or {})
    return Group(prompt, [Trajectory(prompt, [Turn(ACTOR, [1]) for _ in range(turns)], "stop", text) for text in texts])


def scored(rewards: Rewards, *groups: Group) -> list[float]:
    async def all_groups():
        await asyncio.gather(*(rewards.score(one) for one in groups))

    asyncio.run(all_groups())
    return [trajectory.reward for one in groups for trajectory in one.trajectories]


def test_equal_keys_are_called_once_under_way_and_later():
    set_of = rewards("counted", weight=2.0)
    # "ab" twice in one group and once in another at the same time, then again when all is done
    assert scored(set_of, group("ab", "abc", "ab"), group("ab")) == [4.0, 6.0, 4.0, 4.0]
    assert sorted(CALLS) == ["ab", "abc"]
    assert set_of.cache.hits == 2
    later = group("abc", "x")
    assert scored(set_of, later) == [6.0, 2.0]  # another event loop, as for another step
    assert sorted(CALLS) == ["ab", "abc", "x"]
    assert set_of.cache.hits == 3
    assert later.trajectories[0].scores["test_reward_cache:counted"].outcome == "counted"


def test_settings_are_part_of_the_key_and_sets_do_not_share():
    assert scored(rewards("counted", scale=3.0), group("ab", "ab")) == [6.0, 6.0]
    assert scored(rewards("counted"), group("ab")) == [2.0]
    assert CALLS == ["ab", "ab"]


def test_failures_are_shared_while_under_way_but_never_kept():
    set_of = rewards("counted")
    one = group("raises", "raises", "nan")
    assert all(math.isnan(reward) for reward in scored(set_of, one))
    assert [trajectory.failure.kind for trajectory in one.trajectories] == ["crash", "crash", "invalid"]
    assert CALLS == ["raises", "nan"]
    scored(set_of, group("raises", "nan"))
    assert CALLS == ["raises", "nan", "raises", "nan"]


def test_retries_are_as_without_the_cache():
    set_of = rewards("counted", retries=1)
    row = {"failures": 1}
    assert scored(set_of, group("raises", "raises", row=row)) == [6.0, 6.0]
    assert CALLS == ["raises", "raises"]  # one failed for both, one succeeded for both
    CALLS.clear()
    assert all(math.isnan(reward) for reward in scored(rewards("counted", retries=2), group("raises")))
    assert CALLS == ["raises"] * 3


@pytest.mark.parametrize("name", ["never_cached", "unhashable_key", "key_raises", "unmarked"])
def test_without_a_key_every_call_is_made(name):
    set_of = rewards(name)
    assert scored(set_of, group("a", "a")) == [1.0, 1.0]
    assert CALLS == ["a", "a"]
    assert set_of.cache.hits == 0


def test_turn_values_are_checked_against_each_trajectory():
    set_of = rewards("by_turns")
    right, wrong = group("a"), group("a", turns=2)
    assert scored(set_of, right) == [1.0]
    scored(set_of, wrong)
    assert wrong.trajectories[0].failure.kind == "invalid"


def test_groups_may_have_a_key():
    set_of = rewards("of_group")
    assert scored(set_of, group("a", "bc")) == [1.0, 2.0]
    assert scored(set_of, group("a", "bc")) == [1.0, 2.0]
    assert CALLS == ["group"]


def test_a_key_needs_the_mark():
    assert cache_key(unmarked, ["a"], {}) is None
    assert cache_key(counted, ["a", {}], {"scale": 2.0}) == ("a", 2.0)


def get(cache: ResultCache, key: str, calls: list, *, seconds: float = 0.0):
    async def call():
        calls.append(key)
        await asyncio.sleep(seconds)
        return key.upper()

    return cache.get(key, call, keep=lambda result: True)


def test_the_longest_unused_is_forgotten():
    async def run():
        cache, calls = ResultCache(2), []
        for key in ("a", "b", "a", "c", "a", "b"):  # c replaces b, because a was used after b
            assert await get(cache, key, calls) == key.upper()
        assert calls == ["a", "b", "c", "b"]
        assert cache.hits == 2

    asyncio.run(run())


def test_a_call_goes_on_if_one_of_its_waiters_stops_waiting():
    async def run():
        cache, calls = ResultCache(), []
        first = asyncio.ensure_future(get(cache, "a", calls, seconds=0.05))
        second = asyncio.ensure_future(get(cache, "a", calls))
        await asyncio.sleep(0.01)
        first.cancel()
        assert await second == "A"
        assert first.cancelled()
        assert calls == ["a"]

    asyncio.run(run())


def test_a_call_without_waiters_is_ended_and_made_again_later():
    async def run():
        cache, calls = ResultCache(), []
        first = asyncio.ensure_future(get(cache, "a", calls, seconds=5))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert await get(cache, "a", calls) == "A"
        assert calls == ["a", "a"]

    asyncio.run(run())


# The deadline of a function with the mark takes_seconds


@takes_seconds(77)
async def slow(completion):
    return 1.0


def test_a_functions_own_deadline_holds_unless_the_recipe_sets_one():
    assert Reward.from_spec("test_reward_cache:slow", {}).deadline_seconds == 77
    assert Reward.from_spec("test_reward_cache:slow", {"deadline_seconds": 5}).deadline_seconds == 5
    assert Reward.from_spec("test_reward_cache:unmarked", {}).deadline_seconds == 10
    assert Reward.from_spec("code_verifier", {}).deadline_seconds == 300
    with pytest.raises(ValueError, match="more than 0"):
        takes_seconds(0)

"""Host processes: one stream of random numbers per world, deadlines, crashes, and worlds that are always closed."""

from __future__ import annotations

import asyncio
import random

import pytest
from foreign_worlds import Draws

from llmrl.envs.hosts import Hosts
from llmrl.spawned import CrashError


@pytest.fixture(scope="module")
def hosts():
    with_one = Hosts(1)
    yield with_one
    with_one.close()


def world(hosts, seconds=60.0, **settings):
    return hosts.world(Draws, settings, name="draws", deadline_seconds=seconds)


async def episode(hosts, seed, turns=3):
    one = world(hosts)
    said = [(await one.reset(seed)).text]
    for _ in range(turns):
        said.append((await one.act("draw")).text)
    await one.close()
    return said


async def several(hosts, seeds):
    return await asyncio.gather(*(episode(hosts, seed) for seed in seeds))


def test_an_episode_is_the_same_alone_and_beside_others_and_the_trainers_stream_is_untouched(hosts):
    random.seed(5)
    before = random.getstate()
    alone = asyncio.run(episode(hosts, 7))
    beside = asyncio.run(several(hosts, [7, 8, 7, 9]))
    assert random.getstate() == before
    assert beside[0] == beside[2] == alone
    assert len({tuple(said) for said in beside}) == 3 and len(set(alone)) == len(alone)


def test_hosts_hold_no_model(hosts):
    async def modules():
        one = world(hosts)
        await one.reset(0)
        return (await one.act("modules")).text

    assert asyncio.run(modules()) == ""


@pytest.mark.parametrize(
    ("action", "error", "told"),
    [
        ("raise", CrashError, "act of draws: KeyError: 'lost'"),
        ("refuse", ValueError, "act of draws: ValueError: not so"),
        ("lie", ValueError, "act of draws: ValueError: act returned str, expected an Outcome"),
    ],
)
def test_a_world_that_raises_fails_alone(hosts, action, error, told):
    async def both():
        bad, good = world(hosts), world(hosts)
        await bad.reset(1)
        await good.reset(2)
        with pytest.raises(error, match=told):
            await bad.act(action)
        return (await good.act("draw")).text

    assert asyncio.run(both()) == asyncio.run(episode(hosts, 2))[1]


@pytest.mark.parametrize(
    ("action", "error", "told"),
    [
        ("hang", TimeoutError, "act of draws: ran past its deadline of 0.3 seconds"),
        ("die", CrashError, "act of draws: its host process died with exit code 7"),
    ],
)
def test_a_host_that_hangs_or_dies_is_replaced_and_its_worlds_are_told_whose_fault_it_was(action, error, told):
    hosts = Hosts(1)

    async def together():
        bad, waits, rests = world(hosts, 0.3), world(hosts), world(hosts)
        await asyncio.gather(bad.reset(1), waits.reset(2), rests.reset(3))
        ended = await asyncio.gather(bad.act(action), waits.act("draw"), return_exceptions=True)
        with pytest.raises(CrashError, match="act of draws: its host process ended in another world's call"):
            await rests.act("draw")
        for one in (bad, waits, rests):
            await one.close()
        return ended, await episode(hosts, 4)

    (guilty, other), after = asyncio.run(together())
    assert isinstance(guilty, error) and told in str(guilty)
    assert isinstance(other, CrashError) and "in another world's call: act of draws" in str(other)
    assert len(after) == 4
    hosts.close()


def test_a_call_that_waits_for_another_worlds_is_not_late(hosts):
    async def in_turn():
        slow = [world(hosts, 0.3) for _ in range(20)]
        await asyncio.gather(*(one.reset(place) for place, one in enumerate(slow)))
        return await asyncio.gather(*(one.act("pause") for one in slow))  # 0.6 seconds in all

    assert len(asyncio.run(in_turn())) == 20


def test_a_world_is_closed_in_its_host_and_calls_after_the_end_of_hosts_fail(tmp_path):
    hosts, mark = Hosts(1), tmp_path / "closed"

    async def closing():
        one, other = world(hosts, closed_in=str(mark)), world(hosts)
        await one.reset(0)
        await other.reset(1)
        await one.close()
        assert mark.exists()
        hosts.close()
        with pytest.raises(CrashError, match="its host process"):
            await other.act("draw")
        await other.close()

    asyncio.run(closing())

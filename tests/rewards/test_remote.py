from __future__ import annotations

import asyncio
import math
import time

import pytest
from reward_model import make_reward_model, served
from scripted_server import dies, late, scripted, status

from llmrl.errors import RecipeError
from llmrl.pieces import resolve
from llmrl.rewards import services
from llmrl.rewards.base import Rewards
from llmrl.rewards.catalogue import CATALOGUE
from llmrl.rewards.services import health_fault
from llmrl.rewards.workers import Workers
from llmrl.serve.model import ServedModel
from llmrl.types import ACTOR, Failure, Group, Prompt, Trajectory, Turn

NOWHERE = "http://127.0.0.1:9"
SCORES = {"scores": [0.5, -1.5]}


@pytest.fixture(scope="module")
def workers():
    with Workers(1) as pool:
        yield pool


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(services, "FIRST_PAUSE", 0.01)


def group(*texts: str, messages=None) -> Group:
    prompt = Prompt("p0", (1, 2), "1+2=", {}, messages)
    return Group(prompt, [Trajectory(prompt, [Turn(ACTOR, [5])], "stop", text) for text in texts])


async def scored(workers, one: Group, **specs) -> list[float]:
    await Rewards.from_specs(specs, workers=workers).score(one)
    return [trajectory.reward for trajectory in one.trajectories]


async def failure(workers, url: str, **settings) -> Failure:
    """The one failure that both trajectories of a group have."""
    one = group("3", "4")
    rewards = await scored(workers, one, remote_score={"url": url, "attempts": 3, **settings})
    assert all(math.isnan(reward) for reward in rewards)
    [found] = {trajectory.failure for trajectory in one.trajectories}
    assert found
    assert found.source == "remote_score"
    assert url in found.message
    return found


def test_two_servers_are_two_rewards(workers):
    async def main() -> list[float]:
        async with (
            scripted(status(200, {"scores": [1.0, 2.0]})) as helpful,
            scripted(status(200, {"scores": [-1.0, 4.0]})) as harmless,
        ):
            specs = {
                "helpful": {"function": "remote_score", "url": helpful.url},
                "harmless": {"function": "remote_score", "url": harmless.url, "weight": 0.5},
            }
            return await scored(workers, group("3", "4"), **specs)

    assert asyncio.run(main()) == [0.5, 4.0]


def test_the_served_models_scores_reach_the_trajectories(workers, tmp_path):
    folder = make_reward_model(tmp_path)
    model = ServedModel(folder)
    with served(folder) as (_, url):
        asked = ({"role": "user", "content": "1+2"},)

        async def main():
            plain, chat, pooled = group("3", "12"), group("3", "4", messages=asked), group("3", "12")
            return (
                await scored(workers, plain, remote_score={"url": url + "/"}),
                await scored(workers, chat, remote_score={"url": url}),
                await scored(workers, pooled, vllm_score={"url": url, "model": "rm", "end": "<eos>"}),
            )

        plain, chat, pooled = asyncio.run(main())
        assert asyncio.run(health_fault(resolve({"remote_score": {"url": url}}, CATALOGUE, key="", what=""))) is None
    expected = [one for [one] in model.scores([model.answer_ids("1+2=", text) for text in ("3", "12")])]
    assert plain == pytest.approx(expected, abs=1e-5)
    assert pooled == pytest.approx(expected, abs=1e-5)
    said = [[*asked, {"role": "assistant", "content": text}] for text in ("3", "4")]
    assert chat == pytest.approx([one for [one] in model.scores([model.message_ids(one) for one in said])], abs=1e-5)


def test_a_group_is_one_request_and_connections_are_kept(workers, monkeypatch):
    monkeypatch.setenv("RM_KEY", "secret")

    async def main():
        async with scripted(status(200, SCORES)) as server:
            settings = {"url": server.url, "key_variable": "RM_KEY"}
            assert await scored(workers, group("3", "4"), remote_score=settings) == [0.5, -1.5]
            assert await scored(workers, group("5", "6"), remote_score=settings) == [0.5, -1.5]
            assert server.connections == 1
            assert [one["body"]["completion"] for one in server.requests] == [["3", "4"], ["5", "6"]]
            assert server.requests[0]["body"]["prompt"] == ["1+2=", "1+2="]
            assert server.requests[0]["headers"]["authorization"] == "bearer secret"

    asyncio.run(main())


@pytest.mark.parametrize(
    "before",
    [
        [status(503, {"error": {"message": "full"}}), status(429, "slow down")],
        [dies, status(200, "<html>")],
        [status(200, {"scores": [0.5]}), status(200, {"scores": [0.5, None]})],
    ],
)
def test_a_service_that_recovers_costs_nothing(workers, before):
    async def main():
        async with scripted(*before, status(200, SCORES)) as server:
            assert await scored(workers, group("3", "4"), remote_score={"url": server.url}) == [0.5, -1.5]
            assert len(server.requests) == 3

    asyncio.run(main())


def test_a_pause_is_at_least_what_the_server_asks_for(workers):
    async def main():
        async with scripted(status(503, "full", Retry_After="0.3"), status(200, SCORES)) as server:
            started = time.monotonic()
            await scored(workers, group("3", "4"), remote_score={"url": server.url})
            assert time.monotonic() - started >= 0.3

    asyncio.run(main())


@pytest.mark.parametrize(
    ("behave", "kind", "words", "asked"),
    [
        (status(500, {"error": {"message": "no memory"}}), "crash", "status 500: no memory (after 3 attempts)", 3),
        (dies, "crash", "ClientPayloadError", 3),
        (status(200, "<html>"), "invalid", "the reply is no JSON: '<html>' (after 3 attempts)", 3),
        (status(200, {"scores": [1.0, "x"]}), "invalid", "expected 2 scores, each a finite number", 3),
        (status(200, '{"scores": [1.0, NaN]}'), "invalid", "expected 2 scores, each a finite number", 3),
        (status(400, {"error": {"message": "texts[0]: too long"}}), "invalid", "status 400: texts[0]: too long", 1),
    ],
)
def test_a_service_that_fails_is_a_failure_and_never_a_zero(workers, behave, kind, words, asked):
    async def main():
        async with scripted(behave) as server:
            found = await failure(workers, server.url)
            assert found.kind == kind
            assert words in found.message
            assert len(server.requests) == asked

    asyncio.run(main())


def test_a_late_service_and_one_that_is_not_there(workers):
    async def main():
        async with scripted(late) as server:
            found = await failure(workers, server.url, request_seconds=0.1)
            assert (found.kind, "no reply within 0.1 seconds (after 3 attempts)" in found.message) == ("timeout", True)
        found = await failure(workers, NOWHERE)
        assert (found.kind, "Connect" in found.message) == ("crash", True)
        piece = resolve({"remote_score": {"url": NOWHERE}}, CATALOGUE, key="", what="")
        assert (await health_fault(piece) or "").startswith(f"nobody answers at {NOWHERE}/health: ")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "setting 'url' has no default"),
        ({"url": "localhost:8800"}, "'localhost:8800' is not valid: .*URL of a server"),
        ({"url": NOWHERE, "attempts": 0}, "attempts: 0 is not valid"),
        ({"url": NOWHERE, "key_variable": "NO_SUCH_KEY"}, "'NO_SUCH_KEY' is not valid: .*environment variable"),
    ],
)
def test_settings_are_checked_before_anything_runs(workers, settings, words):
    with pytest.raises(RecipeError, match=words):
        Rewards.from_specs({"remote_score": settings}, workers=workers)

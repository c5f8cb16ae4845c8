"""The tools of a real MCP server: listed, called, late, failing, gone; one for each episode, and one for all."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mcp_small_server
import pytest

from llmrl.data.tool_calls import FORMS, CallReader
from llmrl.envs.mcp_server import mcp
from llmrl.envs.toolbox import ToolsGoneError
from llmrl.envs.tools import ToolWorld
from llmrl.errors import RecipeError
from llmrl.pieces import bind
from llmrl.recipe import Recipe
from llmrl.resolve import brought_tools

SERVER = [sys.executable, str(Path(mcp_small_server.__file__))]
AUTHORS: Any = {"actor": SimpleNamespace(calls=CallReader(FORMS["hermes"]))}
PROMPT: Any = SimpleNamespace(row={})


def world(**settings: Any) -> ToolWorld:
    return bind("mcp", mcp, {"command": SERVER, **settings}, key="env").function(
        PROMPT, AUTHORS, **({"command": SERVER} | settings)
    )


def run(work: Callable[[], Any]) -> Any:
    with asyncio.Runner() as runner:
        return runner.run(work())


async def told(one: ToolWorld, *calls: tuple[str, dict[str, Any]]) -> list[str]:
    text = "".join(
        f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>" for name, arguments in calls
    )
    return [message["content"] for message in (await one.act(text)).messages[1:]]


def children() -> set[str]:
    """The processes that this one started and that still run."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_episodes_have_a_server_of_their_own_or_share_one():
    before = children()

    async def play() -> None:
        alone, one, other = world(seconds=2.0), world(shared=True), world(shared=True)
        await asyncio.gather(alone.reset(0), one.reset(0), other.reset(0))
        assert len(children() - before) == 2
        assert await told(alone, ("count", {}), ("add", {"a": 1, "b": 2}), ("count", {})) == ["1", "3", "2"]
        assert await told(one, ("count", {})) + await told(other, ("count", {})) == ["1", "2"]
        faults = await told(alone, ("add", {"a": 1}), ("fail", {"why": "so"}), ("wait", {"seconds": 2.2}))
        assert [json.loads(fault)["error"] for fault in faults] == [
            "add: 'b' is a required property",
            "Error executing tool fail: so",
            "wait gave no answer within 2 s",
        ]
        assert alone.toolbox.metrics == {"tool_calls": 6, "tool_failures": 3, "tool_timeouts": 1}
        await asyncio.gather(alone.close(), one.close())
        with pytest.raises(ToolsGoneError, match="ended: Connection closed; it printed: the end is near"):
            await told(other, ("die", {}))
        with pytest.raises(ToolsGoneError, match="is not running"):
            await told(other, ("count", {}))
        assert len(children() - before) <= 1  # the one that died may not have been waited for yet
        anew = world(shared=True)
        await anew.reset(0)
        assert await told(anew, ("count", {})) == ["1"]

    run(play)
    assert not children() - before  # closing the event loop ended the shared one


def test_the_tools_stand_in_prompts_before_anything_loads():
    tools = brought_tools(Recipe.model_construct(env={"mcp": {"command": SERVER}}))
    assert tools is not None
    add = tools({})[0]["function"]
    assert (add["name"], add["description"], add["parameters"]["required"]) == ("add", "Add two numbers.", ["a", "b"])


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (["no-such-program"], "env.mcp: command: no program 'no-such-program'"),
        ([sys.executable, "-c", "raise SystemExit('no server')"], "failed: Connection closed; it printed: no server"),
    ],
)
def test_a_server_that_cannot_start_is_a_fault_of_the_recipe(command, fault):
    with pytest.raises(RecipeError) as caught:
        tools = brought_tools(Recipe.model_construct(env={"mcp": {"command": command}}))
        assert tools is not None
        tools({})
    assert fault in str(caught.value)

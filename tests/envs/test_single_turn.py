from __future__ import annotations

import asyncio

from llmrl.envs.base import Step
from llmrl.envs.catalogue import CATALOGUE
from llmrl.envs.single_turn import single_turn
from llmrl.pieces import resolve
from llmrl.rollout.sampler import Completion
from llmrl.types import Prompt

PROMPT = Prompt("p0", (4, 5, 6), "1+1=", {"answer": "2"})


def test_shows_the_prompt_and_ends_after_one_completion():
    async def play() -> tuple[list[int], list[Step]]:
        env = single_turn(PROMPT)
        first = await env.reset()
        ends = ("stop", "length")
        return first, [await env.step(Completion([7], [-0.5], reason, 3)) for reason in ends]

    context, steps = asyncio.run(play())
    assert context == [4, 5, 6]
    assert steps == [Step(observation=[], reward=None, done=True)] * 2


def test_what_a_trajectory_adds_leaves_the_prompt_alone():
    async def first() -> list[int]:
        return await single_turn(PROMPT).reset()

    asyncio.run(first()).append(9)
    assert asyncio.run(first()) == [4, 5, 6]


def test_a_recipe_names_it():
    piece = resolve("single_turn", CATALOGUE, key="env", what="environment")
    assert piece.data == ("prompt",)
    assert piece({"prompt": PROMPT}).prompt is PROMPT

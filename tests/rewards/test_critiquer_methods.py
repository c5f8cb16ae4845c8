"""The rewards of the methods that train critiquers, as their recipes weigh them, on texts whose reward is known."""

from __future__ import annotations

import asyncio

import pytest

from llmrl.recipe_file import method_recipe, methods
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.types import Group, Prompt, Trajectory, Turn


@pytest.fixture(scope="module")
def workers():
    with Workers(1, memory_gb=1.0) as pool:
        yield pool


def rewards_of(method: str, row: dict, texts: list[str], workers: Workers) -> list[float]:
    """The rewards of texts by what the method itself brings."""
    recipe = method_recipe(method)
    specs = {name: recipe.rewards[name] for name in methods()[method]["rewards"]}
    prompt = Prompt("1", (1,), "which is better?", row)
    group = Group(prompt, [Trajectory(prompt, [Turn("actor", [1])], "stop", text) for text in texts])
    asyncio.run(Rewards.from_specs(specs, workers=workers).score(group))
    return [one.reward for one in group.trajectories]


def test_a_judge_of_pairs_is_paid_for_its_choice_and_a_tenth_for_its_form(workers):
    said = ["<think>a is short</think> [[B]]", "[[B]]", "<think>b is short</think> [[A]]", "A or B"]
    assert rewards_of("llava_critic_r1", {"answer": "B"}, said, workers) == pytest.approx([1.0, 0.9, 0.1, 0.0])


def test_a_critiquer_of_actions_is_paid_for_its_verdict_its_form_and_its_suggestion(workers):
    row = {"answer": "Incorrect", "suggestion": "open the menu"}
    said = [
        "<thinking>no menu</thinking>[[Incorrect]]<suggestion>open the menu</suggestion>",
        "<thinking>no menu</thinking>[[Incorrect]]<suggestion>close it</suggestion>",
        "[[Incorrect]] <suggestion>open the menu</suggestion>",
        "<thinking>a menu</thinking>[[Correct]]<suggestion></suggestion>",
    ]
    assert rewards_of("gui_critic_r1", row, said, workers) == pytest.approx([1.0, 0.9, 0.9, 0.1])

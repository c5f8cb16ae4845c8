"""Directions of rows: their columns by hand, in prompts, in system prompts and in the sum of rewards."""

from __future__ import annotations

import asyncio
import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from llmrl.data.directions import with_directions
from llmrl.data.prompts import LoadedPrompts, load_prompts
from llmrl.errors import RecipeError
from llmrl.models.loading import character_tokenizer
from llmrl.recipe import Recipe
from llmrl.recipe_rows import Data, Direction
from llmrl.resolve import resolve_pieces
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.run.sampling import make_held_out
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

REWARDS = ("helpful", "brief")
LENGTHS = {"length_penalty": {}}


def test_the_columns_of_given_angles_by_turns():
    rows = with_directions([{"n": n} for n in range(4)], Direction(rewards=REWARDS, among=[0, 60, -45]), "data.train")
    assert [row["angle"] for row in rows] == [0, 60, -45, 0]
    assert rows[1] == {"n": 1, "angle": 60, "percent": [50, 87]} | {
        "reward_direction": pytest.approx({"helpful": 0.5, "brief": math.sqrt(3) / 2})
    }
    assert rows[2]["percent"] == [71, -71]


def test_drawn_angles_fill_their_range_and_belong_to_the_row():
    rows = [{} for _ in range(2000)]
    angles = [row["angle"] for row in with_directions(rows, Direction(rewards=REWARDS, between=(10, 70)), "data.train")]
    assert min(angles) > 10 and max(angles) < 70
    assert sum(angles) / 2000 == pytest.approx(40, abs=3 * 60 / math.sqrt(12 * 2000))  # three standard errors
    again = with_directions(rows[:5], Direction(rewards=REWARDS, between=(10, 70)), "data.eval")
    assert [row["angle"] for row in again] == angles[:5]
    other = with_directions(rows[:5], Direction(rewards=REWARDS, between=(10, 70), seed=1), "data.train")
    assert [row["angle"] for row in other] != angles[:5]


def test_prompts_and_system_prompts_name_the_direction(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "2+3"}) + "\n")
    tokenizer = character_tokenizer("0123456789+-=<> helpfulbri")
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    rows = {"path": str(tmp_path / "rows.jsonl"), "direction": {"rewards": REWARDS, "among": [60]}}
    plain = Data.model_validate({"train": rows | {"prompt": "{percent.0} {question}="}})
    assert load_prompts(tokenizer, plain, 99).train[0].text == "50 2+3="
    asked = rows | {"chat": True, "system_prompt": "helpful {percent.0} brief {percent.1}"}
    chat = Data.model_validate({"train": asked})
    assert load_prompts(tokenizer, chat, 99).train[0].text == "<helpful 50 brief 87><2+3>"
    with pytest.raises(RecipeError, match=r"data\.train\.system_prompt: no column 'percnt\.0'"):
        load_prompts(tokenizer, Data.model_validate({"train": asked | {"system_prompt": "{percnt.0}"}}), 99)


def test_rewards_are_summed_along_the_direction():
    prompt = Prompt("p0", (1,), "", {"reward_direction": {"test_directions:ones": 0.6, "test_directions:marks": -0.8}})
    answer = Trajectory(prompt, [Turn(ACTOR, [5, 5])], "stop", "a!!")
    specs = {"test_directions:ones": {}, "test_directions:marks": {"weight": 0.5}, "test_directions:letters": {}}
    with Workers(1) as workers:
        rewards = Rewards.from_specs(specs, workers=workers)
        asyncio.run(rewards.score(Group(prompt, [answer], ACTOR)))
    # 0.6 x 1 - 0.8 x 0.5 x 2 + 3; a reward that the direction does not name counts as it is
    assert answer.reward == pytest.approx(0.6 - 0.8 + 3.0)


def ones(completion):
    return 1.0


def marks(completion):
    return float(completion.count("!"))


def letters(completion):
    return float(len(completion))


def test_angles_are_categories_in_a_stage_that_compares_nothing_too():
    recipe: Any = SimpleNamespace(by_role={ACTOR: None})
    found = make_held_out(recipe, LoadedPrompts([], categories={"eval:0": "45"}), {})
    assert (found.categories, found.groups) == ({"eval:0": "45"}, ())


def test_faults():
    with pytest.raises(
        RecipeError, match=r"data\.eval\.direction: it adds the column angle, which the rows have already"
    ):
        with_directions([{"angle": 3}], Direction(rewards=REWARDS, among=[0]), "data.eval")
    with pytest.raises(ValueError, match="give exactly one of between, among; got none"):
        Direction(rewards=REWARDS)
    direction = {"rewards": ["math_verifier", "length_penalti"], "among": [0]}
    recipe = Recipe.model_validate(
        {"name": "n", "run_dir": "r", "model": "m", "advantage": "grpo", "policy_loss": "ppo_clip"}
        | {"data": {"train": {"path": "rows.jsonl", "direction": direction}}}
        | {"rewards": {"math_verifier": {}, "length_penalty": {}}}
    )
    with pytest.raises(
        RecipeError, match=r"data\.train\.direction\.rewards: no reward of the recipe named 'length_penalti'"
    ):
        resolve_pieces(recipe)

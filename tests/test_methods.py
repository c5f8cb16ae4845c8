"""The methods that ship, beyond what golden runs hold fast: their words, and settings that golden runs replace."""

from __future__ import annotations

import re

import pytest

from llmrl.recipe_file import method_recipe, methods
from llmrl.resolve import resolve_pieces
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers

METHODS = methods()
SOURCE = r"arXiv \d{4}\.\d{5}|[A-Z]\w+( et al\.)? \d{4}"


@pytest.mark.parametrize("method", METHODS)
def test_each_method_says_what_it_is_and_cites_its_source(method):
    layer = METHODS[method]
    assert layer["summary"] and not layer["summary"].endswith(".") and "\n" not in layer["summary"]
    assert re.search(SOURCE, layer["paper"])


def prefers_longer(a: str, b: str) -> float:
    return float(len(a) > len(b))


OF_THE_RECIPE = {
    "win_rate": {"opinion": f"{__name__}:prefers_longer"},
    "span_critique": {"role": "actor", "rubric": "{prompt}{completion}"},
}
"""Whose words the rewards are made of, which no method says."""


@pytest.mark.parametrize("method", METHODS)
def test_each_method_resolves_in_a_recipe_that_says_nothing_besides(method):
    recipe = method_recipe(method)
    pieces = resolve_pieces(recipe)
    assert {"logprobs", "log_ratio", "scores"} & pieces.algorithm.needs
    if pieces.samples:
        rewards = {name: (own or {}) | OF_THE_RECIPE.get(name, {}) for name, own in recipe.rewards.items()}
        assert "math_verifier" in Rewards.from_specs(rewards, workers=Workers(1)).weights


def test_the_warm_ups_of_critics_are_long_enough_to_be_warm_ups():
    """A golden run replaces them by one step."""
    steps = {name: layer.get("critic", {}).get("warmup_steps", 0) for name, layer in METHODS.items()}
    found = {name for name, number in steps.items() if number}
    assert found == {
        "archer",
        "coderl",
        "digi_q_critic",
        "direct_advantage",
        "dqo",
        "dvpo",
        "sac_glam",
        "vapo",
        "vc_ppo",
        "vl_dac",
    }
    assert all(steps[name] > 1 for name in found)


def test_a_method_with_a_tool_brings_its_environment():
    """The golden run of thor has another environment, which needs no sandbox."""
    assert resolve_pieces(method_recipe("thor")).env.name == "python_tool"
    settings = {"max_calls": 5, "reward_ran": 1.0, "reward_failed": 0.0}
    assert settings.items() <= resolve_pieces(method_recipe("thor")).env.settings.items()


def test_the_soft_penalty_covers_the_last_fifth_of_the_limit():
    """The limit of the completion is dapo's limit too."""
    limit = method_recipe("dapo").rollout.max_completion_tokens
    specs = {"overlong_penalty": method_recipe("dapo").rewards["overlong_penalty"]}
    piece = Rewards.from_specs(specs, workers=Workers(1)).rewards[0].piece
    # over a fifth of the limit the penalty grows from 0 to -1
    values = [piece({"completion_tokens": tokens}).value for tokens in (limit * 4 // 5, limit, limit + 1)]
    assert values == pytest.approx([0.0, -1.0, -1.0], abs=0.02)

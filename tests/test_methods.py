"""The methods that ship: each resolves with a minimal recipe and is what its paper says."""

from __future__ import annotations

import pytest

from llmrl.algorithm import Algorithm
from llmrl.recipe import Recipe
from llmrl.recipe_file import load_plan, methods
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.train.build import resolve_pieces

MINIMAL = """
model: some/model
data: {train: {path: rows.jsonl, completion: solution}}
rewards: {math_verifier: {}}
rollout: {max_completion_tokens: 100}
"""
COMPARE_GROUPS = {"grpo", "dr_grpo", "dapo", "gspo", "rloo", "cispo"}
HAVE_A_REFERENCE = {"grpo", "rloo", "reinforce_pp"}
HAVE_NO_ADVANTAGE = {"sft", "best_of_n_sft"}


@pytest.fixture
def resolved(tmp_path):
    def load(method: str) -> Recipe:
        (tmp_path / "r.yaml").write_text(f"{MINIMAL}method: {method}\n")
        return load_plan(tmp_path / "r.yaml").stages["train"]

    return load


def test_what_ships():
    assert sorted(methods()) == [
        "best_of_n_sft",
        "cispo",
        "dapo",
        "dr_grpo",
        "grpo",
        "gspo",
        "reinforce_pp",
        "rloo",
        "sft",
    ]


@pytest.mark.parametrize("method", sorted(methods()))
def test_each_method_resolves_and_needs_what_it_says(method, resolved):
    recipe = resolved(method)
    needs = Algorithm.from_recipe(recipe).needs
    assert ("group_ids" in needs) == (method in COMPARE_GROUPS)
    assert ("ref_logprobs" in needs) == (method in HAVE_A_REFERENCE)
    assert ("advantages" in needs) == (method not in HAVE_NO_ADVANTAGE)
    assert resolve_pieces(recipe).env.name == "single_turn"
    assert "math_verifier" in Rewards.from_specs(recipe.rewards, workers=Workers(1)).weights


@pytest.mark.parametrize("method", sorted(methods()))
def test_each_method_cites_its_source(method):
    assert "arXiv" in methods()[method]["paper"]
    assert methods()[method]["summary"]


@pytest.mark.parametrize(
    ("method", "loss", "reduce", "keep"),
    [
        ("grpo", {"ppo_clip": {"clip_low": 0.2, "clip_high": 0.2}}, "sequence_mean", "everything"),
        ("dr_grpo", {"ppo_clip": {"clip_low": 0.2, "clip_high": 0.2}}, {"fixed_length": {"length": 100}}, "everything"),
        ("dapo", {"ppo_clip": {"clip_low": 0.2, "clip_high": 0.28}}, "token_mean", "mixed_outcomes"),
        ("gspo", {"ppo_clip": {"clip_low": 3e-4, "clip_high": 4e-4}}, "sequence_mean", "everything"),
        ("rloo", "reinforce", {"fixed_length": {"length": 100}}, "everything"),
        ("cispo", {"cispo": {"clip_low": 1.0, "clip_high": 4.0}}, "token_mean", "mixed_outcomes"),
        ("best_of_n_sft", "nll", "token_mean", {"best_of": {"count": 1, "min_reward": 0.0}}),
    ],
)
def test_loss_mean_and_selection(method, loss, reduce, keep, resolved):
    recipe = resolved(method)
    assert (recipe.policy_loss, recipe.reduce, recipe.keep) == (loss, reduce, keep)


def test_the_soft_penalty_covers_the_last_fifth_of_the_limit(resolved):
    specs = {"overlong_penalty": resolved("dapo").rewards["overlong_penalty"]}
    piece = Rewards.from_specs(specs, workers=Workers(1)).rewards[0].piece
    # 100 tokens at most, a fifth of it is 20: 0 up to 80, -(90 - 80) / 20 = -0.5 at 90, -1 at 100 and over
    values = [piece({"completion_tokens": tokens}).value for tokens in (80, 90, 100, 101)]
    assert values == [0.0, -0.5, -1.0, -1.0]

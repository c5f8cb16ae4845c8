"""Recipes with other policies beside the one in training: what is refused, and its legal neighbours."""

from __future__ import annotations

from typing import Any

import pytest

from llmrl.errors import RecipeError
from llmrl.recipe import Recipe
from llmrl.recipe_layers import merge
from llmrl.resolve import resolve_pieces

SOUND: dict[str, Any] = {
    "name": "r",
    "run_dir": "runs/r",
    "model": "some/model",
    "data": {"train": {"path": "rows.jsonl"}},
    "rewards": {"math_verifier": {}},
    "preference_loss": {"dpo": {"weight": 1.0}},
    "keep": "best_and_worst",
    "rollout": {"prompts_per_step": 4, "group_size": 4, "written_by": {"reference": 1}},
}
MIXED = {"rollout": {"written_by": {"reference": {"share": 0.5}}}}
GRADIENT = {"preference_loss": {"dpo": None}, "policy_loss": "reinforce", "advantage": "reinforce"}
MOMENTUM = {"reference": {"every": 4, "momentum": 0.3}, "rollout": {"written_by": None}}


def resolve(*changes: dict[str, Any]) -> None:
    recipe = SOUND
    for change in changes:
        recipe = merge(recipe, change)
    for key in ("written_by",):
        if recipe["rollout"].get(key) is None:
            recipe = recipe | {"rollout": {k: v for k, v in recipe["rollout"].items() if k != key}}
    losses = {name: spec for name, spec in recipe["preference_loss"].items() if spec}
    resolve_pieces(Recipe.model_validate(recipe | {"preference_loss": losses}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (MIXED, "written_by.reference.share: 0.5, but vllm computes with one model at each token; use"),
        ({"allocate": "xrpo"}, "rollout.written_by: allocate xrpo shares out the policy's completions alone"),
        ({"rollout": {"written_by": {"past_2": 1}}}, "names past_2, but history.kept is 1"),
        (GRADIENT, "keep: best_and_worst leaves reference among the completions that policy_loss reinforce"),
        ({"rollout": {"written_by": {"dataset": 1}}, "data": {"train": {"prompt": "q"}}},
         "rollout.written_by: dataset needs the texts to compare"),
        ({"reference": {"every": 4, "momentum": 0.3}}, "the reference has no weights that could write"),
        (MOMENTUM | {"reference": {"momentum": 0.3}}, "the reference has no last move; set reference.every"),
        (MOMENTUM | {"reference": {"every": 4, "mix": 0.5, "momentum": 0.3}}, "leave reference.mix at 1"),
        (MOMENTUM | {"reference": {"every": 4, "momentum": 0.3, "model": "m"}}, "leave reference.model out"),
        (MOMENTUM | {"preference_loss": {"tdpo1": {"weight": 1.0}}}, "a piece reads ref_kl"),
    ],
)  # fmt: skip
def test_refused(change, words):
    with pytest.raises((RecipeError, ValueError), match=words.replace("(", r"\(")):
        resolve(change)


@pytest.mark.parametrize(
    "change",
    [
        {},
        MIXED | {"rollout": {"engine": "transformers"}},
        {"rollout": {"written_by": {"past_2": 1}}, "history": {"kept": 2}},
        GRADIENT | {"keep": "own_completions"},
        GRADIENT | {"token_weights": {"policy_completions": {}}},
        {"rollout": {"written_by": {"dataset": 1}}},  # rows are told by their columns
        MOMENTUM,
    ],
)
def test_accepted(change):
    resolve(change)

"""A critic that is trained alone in one stage, goes on in the next, and guides decoding in a third."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from llmrl.errors import RecipeError
from llmrl.recipe_file import load_plan
from llmrl.run.run import run_plan
from llmrl.run_folder.reader import RunReader

REWARD = "async def low(completion: str) -> bool:\n    return completion[:1] in set('01234')\n"
RECIPE: dict[str, Any] = {
    "name": "critics",
    "run_dir": "run",
    "model": {
        "build": {
            "config": {
                "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
                "num_key_value_heads": 1, "head_dim": 32, "initializer_range": 0.05, "max_position_embeddings": 64,
            },
            "characters": "0123456789+=",
        }
    },
    "data": {"train": {"path": "sums.jsonl"}},
    "rewards": {"critic_stages_reward:low": {}},
    "method": "ppo",
    "rollout": {
        "engine": "transformers", "max_prompt_tokens": 8, "max_completion_tokens": 2, "prompts_per_step": 4,
        "group_size": 2,
    },
    "training": {"learning_rate": 1e-3, "threads": 1, "updates_per_step": 1},
    "stages": {
        "values": {
            "training": {"steps": 8, "learning_rate": 1e-2},
            "rollout": {"prompts_per_step": 32},
            "critic": {"warmup_steps": 8},
        },
        "rl": {
            "training": {"steps": 1},
            "critic": {"frozen": True, "warmup_steps": 0, "model": "${run_dir}/stages/values/critic"},
        },
        "guided": {
            "trained": False,
            "model": "${run_dir}/stages/values",
            "rollout": {
                "prompts_per_step": 64,
                "guide": {
                    "model": "${run_dir}/stages/values/critic", "reading": {"value_ratio": {"temperature": 0.1}},
                    "top_k": 13,
                },
            },
            "training": {"steps": 1},
        },
    },
}  # fmt: skip


@pytest.fixture
def recipe(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "critic_stages_reward.py").write_text(REWARD)
    (tmp_path / "sums.jsonl").write_text("".join(f'{{"question": "{n}+1=", "answer": "{n + 1}"}}\n' for n in range(8)))
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    return tmp_path / "recipe.yaml"


def start(recipe: Path, *overrides: str) -> None:
    run_plan(load_plan(recipe, list(overrides)), resume=False, console=Console(file=io.StringIO()))


def test_a_stage_trains_only_a_critic_from_which_the_next_one_starts_and_which_guides(recipe):
    start(recipe)
    stages = recipe.parent / "run" / "stages"
    before, after = (load_file(stages / name / "critic" / "model.safetensors") for name in ("values", "rl"))
    assert all(torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()
    assert before["score.bias"].any()
    origin = load_file(recipe.parent / "run" / "origin" / "model.safetensors")
    policy = load_file(stages / "values" / "model.safetensors")
    assert all(torch.equal(policy[name], origin[name]) for name in policy)  # only the critic was trained
    assert not torch.equal(before["model.norm.weight"], origin["model.norm.weight"])
    moved = load_file(stages / "rl" / "model.safetensors")
    assert not torch.equal(moved["model.norm.weight"], origin["model.norm.weight"])
    earned = [(row["stage"], row["reward"]) for row in RunReader(recipe.parent / "run").metrics if "reward" in row]
    plain = [reward for stage, reward in earned if stage == "values"]
    assert earned[-1][0] == "guided" and earned[-1][1] > sum(plain) / len(plain) + 0.25
    with pytest.raises(RecipeError, match=r"critic.outputs: 2, but critic.model .*values/critic' has 1 outputs"):
        found = f"critic.model={stages / 'values' / 'critic'}"
        start(recipe, "run_dir=other", "stages.values.training.steps=0", "critic.outputs=2", f"stages.values.{found}",
              "stages.values.critic.warmup_steps=0")  # fmt: skip


def test_a_stage_that_leaves_no_critic_is_named(recipe):
    with pytest.raises(
        RecipeError, match=r"critic.model: no stage before 'rl' leaves the model .*did you mean .*values"
    ):
        start(recipe, "stages.rl.critic.model=run/stages/value/critic")


def test_only_the_head_of_a_frozen_model_learns(recipe):
    """With LoRA on the policy, whose adapters the critic does not get."""
    start(recipe, "stages.values.critic.head_only=true", "stages.values.model.lora={rank: 2}",
          "stages.values.training.steps=1", "stages.values.critic.warmup_steps=1",
          "stages.rl.training.steps=0", "stages.rl.critic.frozen=false", "stages.guided.training.steps=0")  # fmt: skip
    critic, origin = recipe.parent / "run" / "stages" / "values" / "critic", recipe.parent / "run" / "origin"
    frozen, begun = (load_file(folder / "model.safetensors") for folder in (critic, origin))
    assert frozen.pop("score.bias").any() and frozen.pop("score.weight").any()  # the bias begins at 0
    assert all(torch.equal(frozen[name], begun[name]) for name in frozen) and len(frozen) > 10
    assert not (critic / "adapter_model.safetensors").exists()

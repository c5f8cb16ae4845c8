"""A run looks at every gold answer before it makes a model."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from llmrl.errors import RecipeError
from llmrl.recipe_file import load_plan
from llmrl.run import run

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 32, "num_attention_heads": 1}


def test_a_row_far_down_without_an_answer_stops_a_run_before_its_model_is_made(tmp_path, monkeypatch):
    rows = [{"question": f"{number}=", "answer": str(number)} for number in range(300)]
    rows[217]["answer"] = None
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "run_dir": str(tmp_path / "run"),
        "model": {"build": {"characters": "0123456789=", "config": SIZES | {"num_key_value_heads": 1}}},
        "data": {"train": {"path": str(tmp_path / "rows.jsonl")}},
        "method": "grpo",
        "rewards": {"math_verifier": {}},
        "rollout": {"engine": "transformers", "prompts_per_step": 4, "group_size": 4},
        "training": {"steps": 1, "learning_rate": 0.001},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    monkeypatch.setattr(run, "make_roles", lambda *given: pytest.fail("a model was made"))
    with pytest.raises(RecipeError) as refused:
        run.run_plan(load_plan(tmp_path / "recipe.yaml"), resume=False, console=Console(quiet=True))
    assert refused.value.faults == [
        "data.train.answer: 1 of 300 rows have an answer that rewards.math_verifier cannot use: train:217: null is no "
        "answer; expected text, a finite number, or a list of these of which any is right"
    ]

"""Training by epochs: every row once a pass, the last step of a pass with what is left, resumable anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from small_run import metrics
from training_cases import make_recipe

from llmrl.errors import RecipeError
from llmrl.recipe import Training, with_steps
from llmrl.recipe_file import load_plan
from llmrl.run.run import run_plan
from llmrl.run.stage import Stage

RECIPE: dict[str, Any] = {
    "seed": 5,
    "model": {
        "build": {
            "config": {
                "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
                "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.2, "max_position_embeddings": 32,
            },
            "characters": "0123456789+=",
        },
        "lora": {"rank": 2, "dropout": 0.1},  # dropout draws from torch's random stream
    },
    "data": {"train": {"path": "rows.jsonl"}},
    "rollout": {"max_prompt_tokens": 8, "max_completion_tokens": 4, "prompts_per_step": 3},
    "training": {"epochs": 2, "learning_rate": 1e-2, "schedule": "linear", "threads": 1},
}  # fmt: skip
ROWS = {
    "sft": lambda n: {"prompt": f"{n}+1=", "completion": str(n + 1)},
    "dpo": lambda n: {"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": f"{n}{n}"},
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


def run(method: str, run_dir: str, *overrides: str, resume: bool = False) -> int:
    Path("rows.jsonl").write_text("".join(json.dumps(ROWS[method](n)) + "\n" for n in range(7)))
    Path("recipe.yaml").write_text(json.dumps(RECIPE | {"method": method}))
    plan = load_plan("recipe.yaml", [f"run_dir={run_dir}", *overrides])
    return run_plan(plan, resume=resume, console=Console(quiet=True))


def final(run_dir: str) -> bytes:
    return (Path(run_dir) / "final/model.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_a_run_that_is_stopped_anywhere_goes_on_bit_for_bit(method, folder, monkeypatch):
    """7 rows make 3 steps an epoch; step 2 is in the middle of the first, step 3 at its end."""
    assert run(method, "whole") == 0
    rows = [row for row in metrics(folder / "whole") if row["step"]]
    per_row = {"sft": 1, "dpo": 2}[method]
    assert [row["trajectories"] / per_row for row in rows] == [3, 3, 1, 3, 3, 1]
    assert [row["epoch"] for row in rows] == pytest.approx([3 / 7, 6 / 7, 1, 10 / 7, 13 / 7, 2])
    assert rows[-1]["learning_rate"] == pytest.approx(1e-2 / 6)  # linear over all six
    for stop in (2, 3):
        with monkeypatch.context() as patch:
            train_step = Stage._train_step

            def stopping(stage: Stage, train_step: Any = train_step, stop: int = stop) -> Any:
                stage.stop_asked = lambda: stage.step == stop
                return train_step(stage)

            patch.setattr(Stage, "_train_step", stopping)
            assert run(method, f"broken{stop}") == 128 + 15
        assert metrics(folder / f"broken{stop}")[-1]["step"] == stop
        assert run(method, f"broken{stop}", resume=True) == 0
        assert metrics(folder / f"broken{stop}") == metrics(folder / "whole")
        assert final(f"broken{stop}") == final("whole")


def test_a_finished_run_gets_more_epochs_and_no_fewer(folder):
    settings = ("training.schedule=constant", "checkpoint.every=3")
    assert run("sft", "long", *settings) == 0
    assert run("sft", "short", "training.epochs=1", *settings) == 0
    assert run("sft", "short", *settings, resume=True) == 0
    assert final("short") == final("long") and metrics(folder / "short") == metrics(folder / "long")
    assert run("sft", "short", *settings, resume=True) == 0  # nothing is left to do
    with pytest.raises(RecipeError, match=r"stages\.train\.training\.epochs: 1, but 2 epochs are done"):
        run("sft", "short", "training.epochs=1", *settings, resume=True)
    with pytest.raises(RecipeError, match=r"training\.epochs: None, but this run was started with 2"):
        run("sft", "short", "training.epochs=null", "training.steps=9", *settings, resume=True)


def test_steps_and_epochs_exclude_each_other(folder):
    assert (Training().steps, Training(epochs=2).steps) == (100, None)
    with pytest.raises(RecipeError, match="training: steps 4 and epochs 2 exclude each other: set one of them to null"):
        run("sft", "run", "training.steps=4")
    with pytest.raises(RecipeError, match=r"warmup_steps 6 must be less than training.steps 6, which 2 epochs make"):
        run("sft", "run", "training.warmup_steps=6")


def test_epochs_make_as_many_steps_as_it_takes_to_see_every_row():
    def steps(rows: int, **training: Any) -> int | None:
        return with_steps(make_recipe(rollout={"prompts_per_step": 3}, training=training), rows).training.steps

    assert [steps(rows, epochs=2) for rows in (1, 3, 4, 7)] == [2, 2, 4, 6]
    assert steps(7, steps=5) == 5


def test_without_steps_held_out_pairs_are_measured_alone(folder):
    """By a reference that was measured beforehand too, which is the policy: all pairs are ties."""
    Path("held.jsonl").write_text("".join(json.dumps(ROWS["dpo"](n)) + "\n" for n in range(7, 10)))
    settings = ("training.epochs=null", "training.steps=0", "model.lora=null", "reference.precompute=true")
    assert run("dpo", "measured", *settings, "data.eval.path=held.jsonl") == 0
    [row] = metrics(folder / "measured")
    assert (row["step"], row["eval/pairs"], row["eval/preference_ties"], row["eval/brier_score"]) == (0, 3, 1.0, 0.25)

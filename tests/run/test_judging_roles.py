"""Runs whose judge is a role of the recipe: the shipped recipes, cut short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from llmrl.recipe_file import load_plan
from llmrl.run.run import run_plan

RECIPES = Path(__file__).parents[2] / "recipes" / "preference"


def train(name: str, run_dir: Path, *overrides: str) -> list[dict]:
    plan = load_plan(RECIPES / f"{name}.yaml", [f"run_dir={run_dir}", "data.eval.size=60", *overrides])
    assert run_plan(plan, resume=False, console=Console(quiet=True)) == 0
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_model_prefers_what_a_frozen_copy_of_itself_judges_better(tmp_path):
    """It imitated answers that are mostly second best, and right verdicts; a few steps of its own verdicts show."""
    warm, online = "stages.judge_sft", "stages.online"
    rows = train(
        "self_judge",
        tmp_path / "run",
        f"{warm}.training.steps=160",
        f"{warm}.rollout.prompts_per_step=32",
        f"{online}.training.steps=6",
        f"{online}.evaluation.every=null",
    )
    first, *steps = [row for row in rows if row["stage"] == "online"]
    assert steps[-1]["eval/accuracy"] > first["eval/accuracy"]
    for row in steps:
        assert row["reward/win_rate"] == pytest.approx(0.5, abs=0.05)  # less than all comparisons may be answered
        assert row["reward/win_rate/parse_failures"] < 0.5

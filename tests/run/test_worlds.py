"""A short training run in a real environment package, by the shipped recipe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console

from llmrl.recipe_file import load_plan
from llmrl.run.run import run_plan
from llmrl.run_folder.reader import RunReader

RECIPE = Path(__file__).parents[2] / "recipes" / "multi_turn" / "frozen_lake.yaml"
FEWER = ["training.steps=2", "rollout.prompts_per_step=2", "rollout.group_size=4", "data.eval=null", "evaluation={}"]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_model_is_trained_on_gymnasiums_frozen_lake(tmp_path):
    plan = load_plan(RECIPE, [*FEWER, f"run_dir={tmp_path / 'run'}"])
    assert run_plan(plan, resume=False, console=Console(quiet=True)) == 0
    run = RunReader(tmp_path / "run")
    steps = [row for row in run.metrics if row["step"]]
    assert len(steps) == 2
    for step in steps:
        assert step["turns"] > 1 and 0 < step["invalid_actions"] < 1 and step["failures"] == 0
        assert step["accuracy"] == 0.0  # unsolved, which is not the same as no verdict
    assert run.final is not None

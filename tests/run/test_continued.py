"""What may change in a recipe when its run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from small_run import lay_out

from llmrl.errors import RecipeError
from llmrl.recipe_file import Plan, load_plan
from llmrl.run.resume import continued
from llmrl.run.run import run_plan
from llmrl.run_folder.lock import locked


@pytest.fixture
def plan(tmp_path):
    lay_out(tmp_path)

    def load(*overrides: str) -> Plan:
        return load_plan(tmp_path / "small.yaml", [f"run_dir={tmp_path / 'run'}", *overrides])

    return load


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("seed=8", "seed: 8, but this run was started with 7"),
        ("model.build.config.hidden_size=64", "stage warm_start: model.build.config.hidden_size: 64, but "),
        ("model.lora.rank=8", "model.lora.rank: 8, but this run was started with 4"),
        ("data.train.limit=8", "data.train.limit: 8, but this run was started with None"),
        ("data.eval.limit=8", "data.eval.limit: 8, but this run was started with None"),
        ("training.strategy=deepspeed", "training.strategy: 'deepspeed', but this run was started with 'torch'"),
        ("stages.rl.seed=8", "stage rl: seed: 8, but this run was started with 7"),
        (
            "stages.rl.model={path: x, build: null}",
            "stage rl: model.path: 'x', but this run was started with 'stages/",
        ),
    ],
)
def test_what_a_checkpoint_depends_on_cannot_change(plan, override, fault):
    with pytest.raises(RecipeError) as refused:
        continued(plan().dump(), plan(override), [])
    assert any(line.startswith(fault) and "run_dir=..." in line for line in refused.value.faults), refused.value.faults


def test_a_fault_of_every_stage_is_said_once(plan):
    with pytest.raises(RecipeError) as refused:
        continued(plan().dump(), plan("seed=8"), [])
    assert len(refused.value.faults) == 1


def test_stages_cannot_change(plan):
    other = plan()
    other = Plan(other.name, other.run_dir, {"rl": other.stages["rl"]})
    with pytest.raises(RecipeError, match="stages: rl, but this run was started with warm_start, rl"):
        continued(plan().dump(), other, [])


def test_other_settings_may_change_and_are_recorded(plan):
    text, changed = continued(plan().dump(), plan("stages.rl.training.learning_rate=0.5"), ["warm_start"])
    before = plan().stages["rl"].training.learning_rate
    assert changed == [f"stages.rl.training.learning_rate: changed from {before} to 0.5"]
    assert yaml.safe_load(text)["stages"]["rl"]["training"]["learning_rate"] == 0.5


def test_a_finished_stage_stays_recorded_as_it_was_trained(plan):
    text, changed = continued(plan().dump(), plan("rollout.deadline_seconds=5"), ["warm_start"])
    moved = "rollout.deadline_seconds: changed from 1800.0 to 5.0"
    assert changed == [f"stages.warm_start.{moved}, without effect: its stage is done", f"stages.rl.{moved}"]
    seconds = [yaml.safe_load(text)["stages"][stage]["rollout"]["deadline_seconds"] for stage in ("warm_start", "rl")]
    assert seconds == [1800.0, 5.0]


def test_a_run_may_move(plan, tmp_path):
    text, changed = continued(plan().dump(), plan(f"run_dir={tmp_path}/moved"), [])
    assert changed == []
    assert yaml.safe_load(text)["stages"]["rl"]["model"]["path"] == f"{tmp_path}/moved/stages/warm_start"


def record(run: Path, plan: Plan) -> None:
    run.mkdir()
    (run / "recipe.yaml").write_text(plan.dump())
    (run / "environment.json").write_text("{}")
    (run / "metrics.jsonl").write_text('{"stage": "warm_start", "step": 0}\n')


def test_a_folder_in_use_is_neither_continued_nor_replaced_unasked(plan, tmp_path):
    record(tmp_path / "run", plan())
    with pytest.raises(RecipeError, match=r"run_dir: .*run holds a run already; .*--resume.*--overwrite.*run_dir="):
        run_plan(plan(), resume=False, console=Console())
    with pytest.raises(RecipeError, match="seed: 8, but"):
        run_plan(plan("seed=8"), resume=True, console=Console())
    assert (tmp_path / "run/recipe.yaml").read_text() == plan().dump()


def test_a_recipe_that_no_run_wrote_stays(plan, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.yaml").write_text("mine")
    with pytest.raises(RecipeError, match=r"run_dir: .*run holds a recipe.yaml that no run wrote"):
        run_plan(plan(), resume=False, console=Console())
    assert (tmp_path / "run/recipe.yaml").read_text() == "mine"


def test_a_folder_that_is_being_written_is_refused(plan, tmp_path):
    record(tmp_path / "run", plan())
    for options in ({"resume": True}, {"resume": False, "overwrite": True}):
        with locked(tmp_path / "run"), pytest.raises(RecipeError, match=rf"written by process {os.getpid()} on "):
            run_plan(plan(), console=Console(), **options)
    assert (tmp_path / "run/recipe.yaml").read_text() == plan().dump()


def test_a_finished_run_says_so(plan, tmp_path, capsys):
    record(tmp_path / "run", plan())
    for folder, stage, steps in (("stages/warm_start", "warm_start", 4), ("stages/rl", "rl", 5), ("final", "rl", 5)):
        (tmp_path / "run" / folder).mkdir(parents=True)
        (tmp_path / "run" / folder / "trained.json").write_text(json.dumps({"stage": stage, "steps": steps}))
    assert (
        run_plan(plan("stages.rl.seed=7", "rollout.deadline_seconds=5"), resume=True, console=Console(width=200)) == 0
    )
    printed = capsys.readouterr().out
    assert (
        "stages.rl.rollout.deadline_seconds: changed from 1800.0 to 5.0, without effect: its stage is done" in printed
    )
    assert f"this run is finished: its model is {tmp_path / 'run/final'}" in printed
    with pytest.raises(RecipeError, match=r"stages.rl.training.steps: 9, but the run has no checkpoint to go on from"):
        run_plan(plan("stages.rl.training.steps=9"), resume=True, console=Console())

"""What a run records, and what it forgets when steps are done again."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from llmrl import run_folder
from llmrl.errors import RecipeError
from llmrl.run_folder.atomic import partial_of
from llmrl.run_folder.writer import RunFolder


def recorded(folder: RunFolder) -> tuple[list, list]:
    rows = [(row["stage"], row["step"]) for row in folder.reader.metrics]
    return rows, sorted(os.listdir(folder.path / "rollouts"))


def test_steps_after_a_checkpoint_are_forgotten_and_those_of_later_stages(folder, record):
    record(folder, ("sft", 0), ("sft", 1), ("rl", 0), ("rl", 1), ("rl", 2), ("rl-2", 0), ("rl-2", 1))
    folder.rewind(["sft", "rl", "rl-2"], "rl", 1)
    left = [("sft", 0), ("sft", 1), ("rl", 0), ("rl", 1)]
    files = sorted(f"{stage}-{step:06d}{kind}.parquet" for stage, step in left for kind in ("", "-evals"))
    assert recorded(folder) == (left, files)


def test_warnings_of_steps_that_are_done_again_are_forgotten(folder):
    told = [{"stage": "rl", "step": step, "metric": "truncated"} for step in (1, 2)]
    for warning in told:
        folder.warn(warning)
    folder.rewind(["sft", "rl"], "rl", 1)
    assert folder.reader.warnings == told[:1]


def test_a_stage_without_a_checkpoint_is_forgotten_from_its_first_row(folder, record):
    record(folder, ("sft", 0), ("sft", 1), ("rl", 0))
    folder.rewind(["sft", "rl"], "rl", None)
    assert recorded(folder)[0] == [("sft", 0), ("sft", 1)]
    folder.rewind(["sft", "rl"], "sft", None)
    assert recorded(folder) == ([], [])


def test_static_values_are_measured_once(folder, group):
    for kind in ("once", "train"):
        folder.save_rollouts([group], stage="rl", step=0, kind=kind)
    folder.rewind(["rl"], "rl", None)
    assert recorded(folder)[1] == ["rl-000000-once.parquet"]


def test_a_row_that_a_kill_cut_short_is_no_row(folder, record):
    record(folder, ("rl", 0))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "rl", "st')
    assert recorded(folder)[0] == [("rl", 0)]
    folder.rewind(["rl"], "rl", 0)
    record(folder, ("rl", 1))
    assert recorded(folder)[0] == [("rl", 0), ("rl", 1)]


def test_a_step_without_groups_leaves_no_file(folder):
    folder.save_rollouts([], stage="rl", step=1)
    assert not (folder.path / "rollouts").exists()


def test_starting_sweeps_up_after_a_kill(folder, record):
    record(folder, ("rl", 0))
    for name in ("rollouts/.rl-000001.parquet.partial", ".final.partial"):
        (folder.path / name).write_text("half")
    folder.start("name: small\n", {"command": ["llmrl"], "python": "3", "packages": {}})
    assert list(folder.path.rglob(".*")) == []


def test_clearing_deletes_what_a_run_wrote_and_nothing_else(folder, record):
    record(folder, ("rl", 1))
    (folder.path / ".lock").write_text("{}")
    folder.clear()
    assert os.listdir(folder.path) == [".lock"]
    thesis = folder.path / "chapter.txt"
    thesis.write_text("years of work")
    with pytest.raises(RecipeError, match=r"--overwrite: .*run does not look like a run folder \(no recipe.yaml\)"):
        folder.clear()
    (folder.path / "recipe.yaml").write_text("a recipe of the user's")
    with pytest.raises(RecipeError, match=r"\(no environment.json\)"):
        folder.clear()
    assert thesis.exists()


def test_a_stages_model_says_how_long_it_was_trained_and_replaces_a_shorter_one(folder):
    for steps in (4, 8):
        partial = partial_of(folder.reader.stage_model("rl"))
        partial.mkdir(parents=True)
        (partial / "model.safetensors").write_text(f"weights of {steps}")
        folder.publish_stage("rl", steps)
        folder.finish("rl")
        for model in ("stages/rl", "final"):
            assert (folder.path / model / "model.safetensors").read_text() == f"weights of {steps}"
        assert folder.reader.trained_steps("rl") == steps and folder.reader.is_final("rl")
    assert list(folder.path.rglob(".*")) == []


def test_the_last_stages_model_becomes_the_runs(folder):
    (folder.path / "stages/rl").mkdir(parents=True)
    (folder.path / "stages/rl/model.safetensors").write_text("weights")
    folder.finish("rl")
    assert (folder.path / "final/model.safetensors").read_text() == "weights"


def test_every_start_is_recorded(folder, record):
    folder.start("name: small\n", {"command": ["failed before its first step"]})
    assert len(folder.reader.starts) == 1
    record(folder, ("rl", 0))
    folder.start("name: small\n", {"command": ["resumed"]})
    assert [start["command"] for start in folder.reader.starts] == [["failed before its first step"], ["resumed"]]
    assert folder.reader.environment == {"command": ["resumed"]}


def test_a_rank_that_does_not_write_writes_nothing(tmp_path, record):
    silent = RunFolder(tmp_path / "run", writes=False)
    silent.start("name: small\n", {"command": ["llmrl"], "python": "3", "packages": {}})
    record(silent, ("rl", 0))
    silent.rewind(["rl"], "rl", None)
    silent.finish("rl")
    assert not silent.path.exists()


def test_the_folder_stands_on_types_and_errors_alone():
    """Every tool reads runs, so what reads them may bring no other part of llmrl with it."""
    for file in Path(run_folder.__file__).parent.glob("*.py"):
        for module in re.findall(r"^from (llmrl\S*)", file.read_text(encoding="utf-8"), re.MULTILINE):
            assert module.startswith(("llmrl.run_folder", "llmrl.types", "llmrl.errors")), file.name

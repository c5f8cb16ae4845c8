"""What a run records, and what it forgets when steps are done again."""

from __future__ import annotations

import json
import os

import pyarrow.parquet as pq
import pytest

from llmrl.run_folder.folder import RunFolder, read_metrics
from llmrl.types import Failure, Group, Prompt, Score, Trajectory, Turn


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "run", writes=True)
    folder.start("name: small\n")
    return folder


def group() -> Group:
    prompt = Prompt("train:3", (4, 5), "1+", {"answer": "2"})
    right = Trajectory(prompt, [Turn("actor", [6, 1], [-0.5, -0.25], 7)], "stop", "2")
    right.scores, right.reward = {"verifier": Score(1.0, True, outcome="passed"), "shape": Score(0.0)}, 1.0
    failed = Trajectory(
        prompt, [Turn("actor", [6], [-0.5], 7)], "length", "2", failure=Failure("judge", "timeout", "10 s")
    )
    return Group(prompt, [right, failed])


def record(folder: RunFolder, *steps: tuple[str, int]) -> None:
    for stage, step in steps:
        folder.log({"stage": stage, "step": step, "loss": 0.5})
        folder.rollouts(f"{stage}-{step:06d}", [group()])
        folder.rollouts(f"{stage}-{step:06d}-eval", [group()])


def recorded(folder: RunFolder) -> tuple[list, list]:
    rows = [(row["stage"], row["step"]) for row in read_metrics(folder.path)]
    return rows, sorted(os.listdir(folder.path / "rollouts"))


def test_a_trajectory_is_a_row(folder):
    folder.rollouts("rl-000001", [group()])
    right, failed = pq.read_table(folder.path / "rollouts/rl-000001.parquet").to_pylist()
    assert (right["prompt_id"], right["answer"], right["reward"], right["correct"]) == ("train:3", "2", 1.0, True)
    assert json.loads(right["outcomes"]) == {"verifier": "passed"} and json.loads(failed["outcomes"]) == {}
    assert json.loads(right["scores"]) == {"verifier": 1.0, "shape": 0.0} and right["rollout_logprobs"] == [-0.5, -0.25]
    assert right["turns"] == [{"author": "actor", "token_ids": [6, 1], "reward": None}] and right["policy_version"] == 7
    assert (failed["failure"], failed["correct"]) == ("judge timeout: 10 s", None)


def test_steps_after_a_checkpoint_are_forgotten_and_those_of_later_stages(folder):
    record(folder, ("sft", 0), ("sft", 1), ("rl", 0), ("rl", 1), ("rl", 2), ("rl-2", 0), ("rl-2", 1))
    folder.rewind(["sft", "rl", "rl-2"], "rl", 1)
    left = [("sft", 0), ("sft", 1), ("rl", 0), ("rl", 1)]
    files = sorted(f"{stage}-{step:06d}{kind}.parquet" for stage, step in left for kind in ("", "-eval"))
    assert recorded(folder) == (left, files)


def test_a_stage_without_a_checkpoint_is_forgotten_from_its_first_row(folder):
    record(folder, ("sft", 0), ("sft", 1), ("rl", 0))
    folder.rewind(["sft", "rl"], "rl", None)
    assert recorded(folder)[0] == [("sft", 0), ("sft", 1)]
    folder.rewind(["sft", "rl"], "sft", None)
    assert recorded(folder) == ([], [])


def test_a_row_that_a_kill_cut_short_is_no_row(folder):
    record(folder, ("rl", 0))
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "rl", "st')
    assert recorded(folder)[0] == [("rl", 0)]
    folder.rewind(["rl"], "rl", 0)
    record(folder, ("rl", 1))
    assert recorded(folder)[0] == [("rl", 0), ("rl", 1)]


def test_a_folder_is_in_use_once_a_step_is_recorded(folder):
    assert not folder.in_use
    record(folder, ("rl", 0))
    assert folder.in_use


def test_starting_sweeps_up_after_a_kill(folder):
    record(folder, ("rl", 0))
    for name in ("rollouts/.rl-000001.parquet.partial", ".final.partial"):
        (folder.path / name).write_text("half")
    folder.start("name: small\n")
    assert list(folder.path.rglob(".*")) == []


def test_the_last_stages_model_becomes_the_runs(folder):
    (folder.path / "stages/rl").mkdir(parents=True)
    (folder.path / "stages/rl/model.safetensors").write_text("weights")
    assert folder.done(["sft", "rl"]) == ["rl"]
    folder.finish("rl")
    assert (folder.path / "final/model.safetensors").read_text() == "weights"


def test_a_rank_that_does_not_write_writes_nothing(tmp_path):
    silent = RunFolder(tmp_path / "run", writes=False)
    silent.start("name: small\n")
    record(silent, ("rl", 0))
    silent.rewind(["rl"], "rl", None)
    silent.finish("rl")
    assert not silent.path.exists()

"""Runs that are killed, stopped or fail, and go on: as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from small_run import assert_equal_runs, checkpoints, copy_run, lay_out, metrics, together, train
from transformers import AutoModelForCausalLM, AutoTokenizer

KILLED = -9


def run_whole(folder: Path) -> Path:
    code, printed = train(lay_out(folder), "run", command=True)
    assert code == 0, printed
    return folder / "run"


def run_killed(folder: Path) -> Path:
    run = lay_out(folder) / "run"
    # in the evaluation of step 3: its update is done, but step 2 was the last to be saved
    code, printed = train(folder, "run", interrupt={"place": "reward", "after": ["warm_start", 2]})
    assert (code, checkpoints(run)) == (KILLED, ["warm_start-000002"]), printed
    # while the stage is exported
    code, printed = train(folder, "run", "--resume", interrupt={"place": "open run/stages/.warm_start.partial"})
    assert code == KILLED and "resumed after step 2" in printed
    assert (run / "stages/.warm_start.partial").is_dir() and not (run / "stages/warm_start").exists()
    # among the rollouts of step 3
    code, printed = train(folder, "run", "--resume", interrupt={"place": "reward", "after": ["rl", 2]})
    assert code == KILLED and "stage warm_start: resumed after step 4" in printed
    assert (run / "stages/warm_start").is_dir() and checkpoints(run) == ["rl-000002", "warm_start-000004"]
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    folders = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed")
    whole, killed = together(lambda: run_whole(folders[0]), lambda: run_killed(folders[1]))
    return whole, killed


@pytest.fixture
def whole(runs) -> Path:
    """A run that nothing interrupted."""
    return runs[0]


@pytest.fixture
def killed(runs) -> Path:
    """A run killed three times, at last in step 3 of rl: checkpoint rl-000002 is there."""
    return runs[1]


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(killed, whole, tmp_path):
    folder = copy_run(killed, tmp_path)
    # between the two updates of step 4
    code, printed = train(
        folder, "run", "--resume", interrupt={"place": "loss", "after": ["rl", 3], "count": 2}
    )  # fmt: skip
    assert code == KILLED and "resumed after step 2" in printed
    assert metrics(folder / "run")[-1]["step"] == 3
    # in the middle of a checkpoint
    code, printed = train(
        folder, "run", "--resume", interrupt={"place": "open run/checkpoints/.rl-000004.partial/state.pt"}
    )
    assert code == KILLED and "resumed after step 2" in printed
    partial = folder / "run/checkpoints/.rl-000004.partial"
    assert (partial / "actor.pt").exists() and not (partial / "state.pt").exists()
    assert checkpoints(folder / "run") == [partial.name, "rl-000002", "warm_start-000004"]
    # when all is written but the final model has no name yet
    code, printed = train(folder, "run", "--resume", interrupt={"place": "os.rename run/.final.partial"})
    assert code == KILLED and not (folder / "run/final").exists()
    code, printed = train(folder, "run", "--resume")
    assert code == 0, printed
    assert_equal_runs(folder / "run", whole)
    assert checkpoints(folder / "run") == checkpoints(whole)


def test_a_signal_stops_a_run_after_its_step_with_a_checkpoint(whole, tmp_path):
    folder, run = lay_out(tmp_path), tmp_path / "run"
    never = ("stages.warm_start.checkpoint.every=null", "stages.rl.checkpoint.every=null")
    stop = {"place": "reward", "after": ["warm_start", 1], "signals": [15], "group": True}
    code, printed = train(folder, "run", *never, interrupt=stop)
    assert code == 128 + 15
    assert "stopped after step 2 of stage warm_start; continue with --resume" in printed
    assert checkpoints(run) == ["warm_start-000002"]
    stop = {"place": "reward", "after": ["rl", 2], "signals": [2], "group": True}
    code, printed = train(folder, "run", "--resume", *never, interrupt=stop)
    assert code == 128 + 2
    assert "stopped after step 3 of stage rl; continue with --resume" in printed
    assert checkpoints(run) == ["rl-000003", "warm_start-000002"]
    # the second signal comes while step 4 is not done
    twice = {"place": "reward", "after": ["rl", 3], "signals": [15, 15]}
    code, printed = train(folder, "run", "--resume", *never, interrupt=twice)
    assert code == -15 and metrics(run)[-1]["step"] == 3
    code, printed = train(folder, "run", "--resume", *never)
    assert code == 0 and "resumed after step 3" in printed
    assert_equal_runs(run, whole)


def test_bad_numbers_and_a_file_that_is_too_large_leave_the_last_checkpoint(killed, whole, tmp_path):
    folder, run = copy_run(killed, tmp_path), tmp_path / "run"
    kept = checkpoints(run)
    # a setting may change when a run goes on: update 1 of step 3 makes the weights huge, update 2 not a number
    code, printed = train(folder, "run", "--resume", "stages.rl.training.learning_rate=1.0e+30")
    assert code == 1 and "Traceback" not in printed
    assert "stages.rl.training.learning_rate: changed from " in printed
    assert "llmrl: the gradient's norm is nan" in printed
    assert yaml.safe_load((run / "recipe.yaml").read_text())["stages"]["rl"]["training"]["learning_rate"] == 1e30
    assert checkpoints(run) == kept
    # no file may be longer than half of the model's
    limit = (run / "stages/warm_start/model.safetensors").stat().st_size // 2
    code, printed = train(folder, "run", "--resume", file_limit=limit)
    assert code == 1 and "Traceback" not in printed
    assert (
        "llmrl: checkpoint rl-000004 could not be written (" in printed
        and "OSError: [Errno 27] File too large" in printed
    )
    assert checkpoints(run) == kept
    code, printed = train(folder, "run", "--resume")
    assert code == 0 and "resumed after step 2" in printed
    assert_equal_runs(run, whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_leaves_the_last_checkpoint(killed, small_disk, tmp_path):
    folder, run = lay_out(tmp_path), small_disk / "run"
    shutil.copytree(killed, run)
    kept = checkpoints(run)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "ballast").write_bytes(bytes(free - 60 * 1024))  # steps 3 and 4 fit, the checkpoint does not
    code, printed = train(folder, str(run), "--resume")
    assert code == 1 and "Traceback" not in printed
    assert "llmrl: checkpoint rl-000004 could not be written (the disk is full)" in printed
    assert "continue with --resume" in printed
    assert checkpoints(run) == kept and metrics(run)[-1]["step"] == 4
    assert not list(run.glob("checkpoints/.*"))


def test_models_of_checkpoints_and_of_the_run_load_with_transformers(whole):
    of_rl = {row["step"]: row for row in metrics(whole) if row["stage"] == "rl"}
    evaluated = {step: of_rl[step]["eval/accuracy"] for step in (2, 4)}
    kept = sorted({4, 5, max(evaluated, key=evaluated.__getitem__)})
    assert checkpoints(whole) == [*(f"rl-{step:06d}" for step in kept), "warm_start-000004"]
    for folder in (whole / "checkpoints/rl-000004/model", whole / "final"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        token_ids = AutoTokenizer.from_pretrained(folder)("1+2=", return_tensors="pt").input_ids
        assert token_ids.tolist() == [[4, 13, 5, 14]]  # three special tokens, then 0123456789+=
        with torch.no_grad():
            assert model(token_ids).logits.isfinite().all()


def test_vllm_samples_the_same_after_a_kill(tmp_path):
    settings = ("model.lora=null", "rollout.engine=vllm")
    assert_a_kill_changes_nothing(tmp_path, settings, {"place": "reward", "after": ["rl", 2]}, command=True)


OTHERS = (
    "stages.rl.history={every: 1, kept: 2}",
    "stages.rl.rollout.written_by={past_2: 1, reference: 1}",
    "stages.rl.keep=own_completions",
    "stages.rl.reference.every=1",
    "stages.rl.regularizers.past_kl={weight: 0.3, period: 2}",
)


def test_two_processes_go_on_after_one_of_them_was_killed(tmp_path):
    """And so do the earlier policies and the moving reference, which write half of every group."""
    settings = ("model.lora=null", "training.strategy=deepspeed", "training.zero_stage=2", *OTHERS, "--nproc", "2")
    assert_a_kill_changes_nothing(tmp_path, settings, {"place": "loss", "after": ["rl", 3]}, command=True)


def test_a_critic_and_a_controller_go_on_after_a_kill(tmp_path):
    """Killed between the two updates of step 4; the adapters of policy and critic have dropout."""
    settings = (
        "stages.rl.advantage=gae",
        "stages.rl.critic.warmup_steps=1",
        "stages.rl.regularizers.entropy_window={weight: 0.5, low: 0.999, high: 1.001}",
        "stages.warm_start.training.steps=2",
        *OTHERS,
    )
    kill = {"place": "loss", "after": ["rl", 3], "count": 2}
    runs = assert_a_kill_changes_nothing(tmp_path, settings, kill)
    critics, states = (
        [torch.load(run / "checkpoints/rl-000004" / name, weights_only=False) for run in runs]
        for name in ("actor.critic.pt", "state.pt")
    )
    assert critics[0]["updates"] == critics[1]["updates"] == 8
    for name, weight in critics[0]["weights"].items():
        assert torch.equal(weight, critics[1]["weights"][name]), name
    rows = [row for row in metrics(runs[0]) if row["stage"] == "rl" and row["step"] > 0]
    entropies = [row["entropy"] for row in rows if "entropy" in row]
    assert len(entropies) == 4 and "entropy" not in rows[0]  # the critic's warm-up
    histories = [sum(entropies[: n + 1]) / (n + 1) for n in range(4)]
    assert [row["control/entropy_history"] for row in rows[1:]] == pytest.approx(histories)
    assert states[0]["controllers"] == states[1]["controllers"]
    assert states[0]["controllers"]["actor"]["entropy_history"] == pytest.approx({"value": histories[2], "steps": 3.0})
    assert any(row["entropy_window"] > 0 for row in rows[2:])


def assert_a_kill_changes_nothing(
    folder: Path, settings: tuple[str, ...], kill: dict, *, command: bool = False
) -> tuple[Path, Path]:
    """Returns the run that nothing interrupted, and the one that went on."""
    whole, broken = lay_out(folder / "whole"), lay_out(folder / "broken")
    (code, printed), (broken_code, broken_printed) = together(
        lambda: train(whole, "run", *settings, command=command),
        lambda: train(broken, "run", *settings, command=command, interrupt=kill),
    )
    assert code == 0, printed
    assert broken_code in (KILLED, 128 + 9), broken_printed  # by itself, or as the launcher says it
    code, printed = train(broken, "run", "--resume", *settings, command=command)
    assert code == 0 and "stage rl: resumed after step 2" in printed, printed
    assert_equal_runs(broken / "run", whole / "run")
    return whole / "run", broken / "run"


def test_children_of_a_killed_run_end(killed):
    """The reward workers of the runs above saw that their trainer was gone."""
    left = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(killed.parent):
                left.append((entry / "cmdline").read_text())
        except OSError:
            continue
    assert left == []
    assert json.loads((killed / "environment.json").read_text())["starts"][-1]["command"][-1] == "--resume"

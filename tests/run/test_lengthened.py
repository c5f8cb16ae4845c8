"""A finished run that gets more steps: it goes on as a run of so many steps would have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from small_run import assert_equal_runs, checkpoints, copy_run, lay_out, metrics, together, train

from llmrl.run_folder.reader import RunReader

SETTINGS = (
    "stages.warm_start.training.steps=2",
    "stages.rl.training.warmup_steps=1",
    "stages.rl.training.schedule=constant",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """A run of two steps and one of four."""
    folders = [lay_out(tmp_path_factory.mktemp(name)) for name in ("short", "long")]
    made = together(
        *(
            lambda folder=folder, steps=steps: train(folder, "run", *SETTINGS, f"stages.rl.training.steps={steps}")
            for folder, steps in zip(folders, (2, 4), strict=True)
        )
    )
    assert all(code == 0 for code, _ in made), made
    return folders[0] / "run", folders[1] / "run"


def test_a_lengthened_run_equals_one_of_that_length_from_the_start(runs, tmp_path):
    short, long = runs
    folder = copy_run(short, tmp_path)
    before = (folder / "run/final/model.safetensors").read_bytes()
    # killed when all steps are done and the longer model is being written: the shorter one is still there
    code, printed = train(
        folder, "run", *SETTINGS, "stages.rl.training.steps=4", "--resume",
        interrupt={"place": "open run/stages/.rl.partial"},
    )  # fmt: skip
    assert "stages.rl.training.steps: changed from 2 to 4" in printed and "resumed after step 2" in printed
    assert "this changes" not in printed
    assert code == -9 and metrics(folder / "run")[-1]["step"] == 4
    assert (folder / "run/final/model.safetensors").read_bytes() == before
    code, printed = train(folder, "run", *SETTINGS, "stages.rl.training.steps=4", "--resume")
    assert code == 0 and "stage rl: resumed after step 4" in printed, printed
    assert_equal_runs(folder / "run", long)
    assert (folder / "run/final/model.safetensors").read_bytes() != before
    code, printed = train(folder, "run", *SETTINGS, "stages.rl.training.steps=4", "--resume")
    assert code == 0 and "this run is finished: its model is run/final" in printed


def test_the_last_step_has_a_checkpoint_to_go_on_from(runs):
    assert checkpoints(runs[0]) == ["rl-000002", "warm_start-000002"]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (
            ["stages.rl.training.steps=1", "stages.rl.training.warmup_steps=0"],
            "stages.rl.training.steps: 1, but 2 steps are done; a run cannot be short",
        ),
        (
            ["stages.rl.training.steps=2", "stages.warm_start.training.steps=3"],
            "stages.warm_start.training.steps: 3, but stage rl has gone on from the model of 2 steps; only the last",
        ),
    ],
)
def test_what_cannot_be_lengthened_or_shortened_is_refused(runs, tmp_path, settings, fault):
    code, printed = train(copy_run(runs[0], tmp_path), "run", *SETTINGS, *settings, "--resume")
    assert code == 2 and printed.startswith(f"llmrl: {fault}"), printed


def test_a_schedule_over_all_steps_and_changed_files_are_said(runs, tmp_path):
    folder = copy_run(runs[0], tmp_path)
    with (folder / "held_out.jsonl").open("a") as rows:
        rows.write("\n")
    settings = ("stages.rl.training.steps=4", "stages.rl.training.schedule=linear", "--resume")
    code, printed = train(folder, "run", *SETTINGS[:2], *settings)
    assert code == 0, printed
    assert (
        "stages.rl.training.steps: 2 until step 2, then 4; this changes the linear schedule, so the model will not be "
        "that of 4 steps from the start"
    ) in printed
    assert re.findall(r"warning: (\w+) changed since the start of .*: (.*)", printed) == [("data", "held_out.jsonl")]
    starts = RunReader(folder / "run").starts
    assert len(starts) == 2 and starts[0]["digests"]["code"] == starts[1]["digests"]["code"]
    assert any(Path(file).name == "interruptions.py" for file in starts[0]["digests"]["code"])


def test_a_refused_start_leaves_no_record(runs, tmp_path):
    folder = copy_run(runs[0], tmp_path)
    recorded = [folder / "run" / name for name in ("recipe.yaml", "environment.json", "metrics.jsonl")]
    before = [file.read_bytes() for file in recorded]
    questions = (folder / "sums.jsonl").read_text().splitlines(keepends=True)
    (folder / "sums.jsonl").write_text("".join(questions[1:]))
    code, printed = train(folder, "run", *SETTINGS, "stages.rl.training.steps=4", "--resume")
    assert code == 2 and "warning: data changed since" in printed, printed
    assert [file.read_bytes() for file in recorded] == before

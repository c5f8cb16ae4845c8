"""What every tool reads of a run, whatever became of the run."""

from __future__ import annotations

from llmrl.run_folder.layout import StepName, parse
from llmrl.run_folder.reader import RunReader
from llmrl.run_folder.rows import SCHEMA
from llmrl.run_folder.writer import RunFolder


def test_a_name_says_stage_step_and_kind():
    for name, found in {
        "rl-000040": StepName("rl", 40),
        "rl-2-000040-evals": StepName("rl-2", 40, "eval"),
        "warm-up-000000-once": StepName("warm-up", 0, "once"),
        "rl-000001-1234567": StepName("rl-000001", 1234567),
    }.items():
        assert parse(name) == found and str(found) == name
    for name in ("rl", "rl-40", "rl-000040-test", "-000040"):
        assert parse(name) is None


def test_a_folder_that_is_not_there_is_an_empty_run(tmp_path):
    run = RunReader(tmp_path / "nowhere")
    assert (run.recipe, run.environment, run.checkpoints) == ({}, {}, {})
    assert (run.metrics, run.in_use, run.done(), run.final) == ([], False, [], None)
    assert run.rollouts().num_rows == 0 and run.rollouts().schema == SCHEMA


def test_what_a_run_has_recorded_of_itself(folder):
    assert folder.reader.recipe["stages"]["rl"] == {"seed": 7}
    assert {"command", "python", "packages"} <= set(folder.reader.environment)


def test_rows_are_those_that_were_finished(folder):
    assert not folder.reader.in_use
    folder.log({"stage": "rl", "step": 0, "reward": 0.5})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "rl", "step": 1, "rew')
    assert folder.reader.metrics == [{"stage": "rl", "step": 0, "reward": 0.5}] and folder.reader.in_use


def test_rollouts_of_a_step_of_an_evaluation_and_of_all(folder, record):
    record(folder, ("sft", 10), ("rl", 2), ("rl", 10))
    run = folder.reader
    (folder.path / "rollouts" / "notes.parquet").write_text("of somebody else")
    assert run.rollouts().num_rows == 3 * 2 * 2  # three steps, each with an evaluation, of two trajectories
    assert run.rollouts(stage="rl", step=10).num_rows == 4
    last = run.rollouts(stage="rl", step=10, kind="eval", columns=["step", "reward"])
    assert last.to_pylist() == [{"step": 10, "reward": 1.0}, {"step": 10, "reward": 0.0}]
    assert run.rollouts(stage="rl", kind="train")["step"].to_pylist() == [2, 2, 10, 10]
    assert run.rollouts(kind="once", columns=["reward"]).column_names == ["reward"]


def test_a_folders_name_is_no_column(tmp_path, record):
    """pyarrow would read a parent called lr=1 as a column of the file."""
    folder = RunFolder(tmp_path / "lr=1", writes=True)
    folder.start("name: small\n", {"command": ["llmrl"], "python": "3", "packages": {}})
    record(folder, ("rl", 1))
    assert folder.reader.rollouts().schema == SCHEMA


def test_checkpoints_stages_and_the_final_model(folder):
    for name in ("checkpoints/rl-000010", "checkpoints/rl-000002", "checkpoints/.rl-000011.partial", "stages/rl"):
        (folder.path / name).mkdir(parents=True)
    (folder.path / "stages/rl/trained.json").write_text('{"stage": "rl", "steps": 10}')
    run = folder.reader
    assert list(run.checkpoints) == [("rl", 2, "train"), ("rl", 10, "train")]
    assert run.checkpoints[StepName("rl", 10)] == folder.path / "checkpoints/rl-000010"
    assert run.done() == ["rl"] and run.done(["sft"]) == [] and run.final is None
    folder.finish("rl")
    assert run.final == folder.path / "final" and run.is_final("rl")
    (folder.path / "stages/rl/trained.json").write_text('{"stage": "rl", "steps": 12}')
    assert run.trained_steps("rl") == 12 and not run.is_final("rl")

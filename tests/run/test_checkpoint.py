"""Checkpoints: which folders exist, what is in them, and that random streams go on where they were."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError, RunStopped
from llmrl.recipe import Checkpointing
from llmrl.run.checkpoint import Checkpoints, random_state, read_state, reading, set_random_state
from llmrl.run.resume import refuse_unfit
from llmrl.run.stage import Stage


@pytest.fixture
def checkpoints(tmp_path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", Ranks())


def write(folder):
    (folder / "actor.pt").write_text("weights")


def names(checkpoints):
    return sorted(f.name for f in checkpoints.folder.iterdir())


def test_a_checkpoint_has_its_state_and_what_was_written(checkpoints):
    folder = checkpoints.save("rl", 4, {"best": (0.5, 2)}, write)
    assert folder.name == "rl-000004" and (folder / "actor.pt").read_text() == "weights"
    assert read_state(folder) == {"best": (0.5, 2), "stage": "rl", "step": 4}


def test_a_checkpoint_that_fails_leaves_the_ones_before(checkpoints):
    checkpoints.save("rl", 2, {}, write)

    def fail(folder):
        write(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(RunStopped, match=r"checkpoint rl-000004 could not be written \(the disk is full\)"):
        checkpoints.save("rl", 4, {}, fail)
    assert names(checkpoints) == ["rl-000002"]


def test_the_latest_is_the_highest_step_of_the_stage(checkpoints):
    assert checkpoints.latest("rl") is None
    for stage, step in (("rl", 1_000_000), ("rl", 999_999), ("rl-2", 3_000_000), ("warm_start", 2_000_000)):
        checkpoints.save(stage, step, {}, write)  # neither the time written nor the name's order counts
    (checkpoints.folder / ".rl-2000000.partial").mkdir()
    found = checkpoints.latest("rl")
    assert found and found.name == "rl-1000000"
    checkpoints.sweep()
    assert not (checkpoints.folder / ".rl-2000000.partial").exists()


@pytest.mark.parametrize(
    ("keep_last", "best", "left"),
    [
        (1, None, [4]),
        (2, None, [3, 4]),
        (9, None, [1, 2, 3, 4]),
        (1, 2, [2, 4]),
        (2, 4, [3, 4]),
    ],
)
def test_pruning_keeps_the_newest_and_the_best(checkpoints, keep_last, best, left):
    for step in (1, 2, 3, 4):
        checkpoints.save("rl", step, {}, write)
    checkpoints.save("warm_start", 7, {}, write)
    checkpoints.prune("rl", keep_last=keep_last, best=best)
    assert names(checkpoints) == [f"rl-{step:06d}" for step in left] + ["warm_start-000007"]


def make_stage(checkpoints, **settings) -> Stage:
    """A stage whose engine and data have nothing to save."""
    stage = Stage.__new__(Stage)
    stage.name, stage.ranks, stage.checkpoints, stage.best = "rl", Ranks(), checkpoints, None
    stage.recipe = SimpleNamespace(checkpoint=Checkpointing(**settings))  # pyright: ignore
    stage.source = SimpleNamespace(state_dict=dict)  # pyright: ignore
    stage.collector, stage.eval_prompts = SimpleNamespace(authors={}), [SimpleNamespace()]  # pyright: ignore
    stage.roles = {"actor": SimpleNamespace(name="actor", save=write, controllers={}, critic=None)}  # pyright: ignore
    stage.export = lambda folder: folder.mkdir()
    return stage


def save_steps(stage: Stage, rows: dict[int, dict[str, float]]) -> None:
    for step, row in rows.items():
        stage.step = step
        stage._checkpoint(row)


def test_the_best_is_the_step_whose_own_evaluation_is_best(checkpoints):
    stage = make_stage(checkpoints, keep_last=1)
    accuracy = "eval/accuracy"
    save_steps(stage, {1: {accuracy: 0.25}, 2: {accuracy: 0.75}, 3: {}, 4: {accuracy: 0.75}, 5: {accuracy: 0.5}, 6: {}})
    # step 3 was not evaluated, step 4 is no better than step 2; the newest is kept besides
    assert stage.best == (0.75, 2) and names(checkpoints) == ["rl-000002", "rl-000006"]
    assert read_state(checkpoints.folder / "rl-000006")["best"] == (0.75, 2)


def test_any_metric_of_the_row_may_say_what_is_best_and_nan_never_is(checkpoints):
    stage = make_stage(checkpoints, keep_last=1, metric="reward")
    save_steps(stage, {1: {"reward": float("nan")}, 2: {"reward": -1.0}, 3: {"reward": float("nan")}, 4: {}})
    assert stage.best == (-1.0, 2) and names(checkpoints) == ["rl-000002", "rl-000004"]


def test_without_keep_best_only_the_newest_are_kept(checkpoints):
    stage = make_stage(checkpoints, keep_last=1, keep_best=False)
    save_steps(stage, {1: {"eval/accuracy": 1.0}, 2: {"eval/accuracy": 0.0}})
    assert stage.best is None and names(checkpoints) == ["rl-000002"]


def test_random_streams_go_on_where_they_were(checkpoints):
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    folder = checkpoints.save("rl", 1, {"random": random_state()}, write)
    expected = [draw(), draw()]
    set_random_state(read_state(folder)["random"])
    assert [draw(), draw()] == expected


def test_a_damaged_checkpoint_says_what_to_do(checkpoints):
    folder = checkpoints.save("rl", 1, {}, write)
    (folder / "state.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(RecipeError, match=r"rl-000001: cannot be resumed from: .*delete it"), reading(folder):
        read_state(folder)


def resume_check(before: int, now: int, checkpoints, strategy: str = "torch", steps: int = 4) -> None:
    """Whether `now` processes may go on, for so many steps, from a checkpoint that `before` processes made."""
    folder = checkpoints.save("rl", 4, {"random": [random_state()] * before}, write)
    training = SimpleNamespace(steps=steps, strategy=strategy)
    recipe = SimpleNamespace(training=training, by_role={"actor": SimpleNamespace(training=training, trained=True)})
    refuse_unfit(folder, "rl", recipe, now)  # pyright: ignore


def test_a_checkpoint_that_divides_its_state_is_for_as_many_processes(checkpoints):
    for before, now in ((2, 1), (2, 4), (1, 2)):
        resume_check(before, now, checkpoints, "accelerate")
        for strategy in ("deepspeed", "own_engine:make"):
            message = rf"--nproc: {now}, but .*rl-000004 was made by {before} .* {strategy} .* --nproc {before}, or"
            with pytest.raises(RecipeError, match=message):
                resume_check(before, now, checkpoints, strategy)
            resume_check(before, before, checkpoints, strategy)


def test_a_checkpoint_of_more_steps_is_refused(checkpoints):
    resume_check(1, 1, checkpoints)
    with pytest.raises(RecipeError, match=r"stages\.rl\.training\.steps: 3, but .*rl-000004 has 4 steps"):
        resume_check(1, 1, checkpoints, steps=3)

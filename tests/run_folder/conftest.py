"""A run's folder, and a group in which one trajectory is right and one failed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmrl.run_folder.writer import RunFolder
from llmrl.types import Failure, Group, Prompt, Score, Trajectory, Turn


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "run", writes=True)
    folder.start(
        "name: small\nstages: {sft: {}, rl: {seed: 7}}\n", {"command": ["llmrl"], "python": "3", "packages": {}}
    )
    return folder


@pytest.fixture
def group() -> Group:
    prompt = Prompt("train:3", (4, 5), "1+", {"answer": "2"})
    right = Trajectory(prompt, [Turn("actor", [6, 1], [-0.5, -0.25], 7)], "stop", "2")
    right.scores, right.reward = {"verifier": Score(1.0, True, outcome="passed"), "shape": Score(0.0)}, 1.0
    failed = Trajectory(
        prompt, [Turn("actor", [6], [-0.5], 7)], "length", "2", failure=Failure("judge", "timeout", "10 s")
    )
    return Group(prompt, [right, failed])


@pytest.fixture
def record(group) -> Callable[..., None]:
    """Records steps, each with a row, its rollouts and an evaluation."""

    def of(folder: RunFolder, *steps: tuple[str, int]) -> None:
        for stage, step in steps:
            folder.log({"stage": stage, "step": step, "loss": 0.5})
            folder.save_rollouts([group], stage=stage, step=step)
            folder.save_rollouts([group], stage=stage, step=step, kind="eval")

    return of

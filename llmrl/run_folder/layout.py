"""The layout of a run's folder, which holds everything that a tool can show of the run.

recipe.yaml        the resolved plan             environment.json   versions, device, command
metrics.jsonl      a row per step                rollouts/          a parquet file per step
warnings.jsonl     what was warned of            profile.json       where a step's time went (train --profile)
checkpoints/       to resume from                stages/            each finished stage's model
replay/            trajectories learned from again
final/             the trained model             reference/         log-probabilities that were measured beforehand
.lock              the process that writes now
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

RECIPE = "recipe.yaml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
WARNINGS = "warnings.jsonl"
PROFILE = "profile.json"
ROLLOUTS = "rollouts"
CHECKPOINTS = "checkpoints"
STAGES = "stages"
REPLAY = "replay"
FINAL = "final"
CRITIC = "critic"
"""In the model's folder of a stage, and in `final`: a critic that has weights of its own."""
TRAINED = "trained.json"
"""In the model's folder of a stage, and in `final`: the stage's name, its steps, and its epochs if they were given."""
LOCK = ".lock"

Kind = Literal["train", "eval", "once"]
"""The purpose of trajectories: a training step, an evaluation, or the static values of a stage's prompts."""
SUFFIX: dict[str, Kind] = {"": "train", "-evals": "eval", "-once": "once"}
"""The ends of names; datasets takes files with the word "eval" in their names as a test split and leaves out others."""
_NAME = re.compile(rf"(?P<stage>.+)-(?P<step>\d{{6,}})(?P<suffix>{'|'.join(SUFFIX)})")


class StepName(NamedTuple):
    """The name of a stage's file at a step: the checkpoint rl-000040, or the rollouts rl-000040-evals.parquet."""

    stage: str
    step: int
    kind: Kind = "train"

    def __str__(self) -> str:
        suffix = next(suffix for suffix, kind in SUFFIX.items() if kind == self.kind)
        return f"{self.stage}-{self.step:06d}{suffix}"


def parse(name: str) -> StepName | None:
    """The stage, step and kind in a name without its ending; None for a name that no run gives."""
    found = _NAME.fullmatch(name)
    return StepName(found["stage"], int(found["step"]), SUFFIX[found["suffix"]]) if found else None

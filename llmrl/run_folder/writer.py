"""The writer of a run's records; llmrl/run_folder/layout.py has their places."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmrl.errors import RecipeError
from llmrl.run_folder import layout
from llmrl.run_folder.atomic import partial_of, publish, sweep
from llmrl.run_folder.layout import Kind, StepName
from llmrl.run_folder.reader import RunReader
from llmrl.run_folder.rows import table_of
from llmrl.types import Group


class RunFolder:
    """Writes the folder of a run. Only rank 0 writes, and every file appears whole or not at all.

    reader: reads the records so far, on every rank.
    """

    def __init__(self, path: Path, *, writes: bool):
        self.path = path
        self.reader = RunReader(path)
        self._writes = writes

    def clear(self) -> None:
        """Delete all that the folder holds; raises RecipeError if that is not a run, but something else."""
        found = [path for path in self.path.iterdir() if path.name != layout.LOCK]
        missing = [name for name in (layout.RECIPE, layout.ENVIRONMENT) if not (self.path / name).is_file()]
        if found and missing:
            raise RecipeError(
                f"--overwrite: {self.path} does not look like a run folder (no {missing[0]}); not deleted"
            )
        for path in found:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def start(self, plan_yaml: str, environment: Mapping[str, Any]) -> None:
        """Record the plan and the start's environment; delete a killed process's half-written files."""
        if not self._writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.path / layout.ROLLOUTS, self.path / layout.STAGES):
            sweep(folder)
        starts = [*(self.reader.starts if self.reader.in_use else ()), environment]
        self._write(layout.ENVIRONMENT, json.dumps({"starts": starts}, indent=2) + "\n")
        self._write(layout.RECIPE, plan_yaml)  # last: a recipe without an environment is not a run's

    def rewind(self, stages: Sequence[str], stage: str, step: int | None) -> None:
        """Delete the records after `step` of `stage` (None: all of the stage's) and of later stages.

        stages: all, in order. Steps that are done again are then recorded once.
        """
        if not self._writes:
            return
        later = stages[stages.index(stage) + 1 :]
        reached = -1 if step is None else step

        def beyond(name: str, number: int) -> bool:
            return name in later or (name == stage and number > reached)

        for file, rows in ((layout.METRICS, self.reader.metrics), (layout.WARNINGS, self.reader.warnings)):
            kept = [row for row in rows if not beyond(row["stage"], row["step"])]
            self._write(file, "".join(json.dumps(row) + "\n" for row in kept))
        for name, file in self.reader.rollout_files():
            if beyond(name.stage, name.step) and name.kind != "once":  # static values are measured once
                file.unlink()

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        self._append(layout.METRICS, row)

    def warn(self, row: dict[str, Any]) -> None:
        """Append one warning to warnings.jsonl."""
        self._append(layout.WARNINGS, row)

    def save_profile(self, profile: Mapping[str, Any]) -> None:
        """Write the profile of a step, under its stage's name beside those of other stages."""
        if self._writes:
            whole = self.reader.profile | {profile["stage"]: profile}
            self._write(layout.PROFILE, json.dumps(whole, indent=1) + "\n")

    def _append(self, name: str, row: dict[str, Any]) -> None:
        if self._writes:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a checkpoint must not outlive the rows of its steps

    def save_rollouts(self, groups: Sequence[Group], *, stage: str, step: int, kind: Kind = "train") -> None:
        """Write every trajectory of a step, of an evaluation after it, or of the measurement of static values."""
        if not self._writes or not groups:
            return
        target = self.path / layout.ROLLOUTS / f"{StepName(stage, step, kind)}.parquet"
        target.parent.mkdir(exist_ok=True)
        pq.write_table(table_of(groups, stage=stage, step=step, kind=kind), partial_of(target))
        publish(target)

    def publish_stage(self, stage: str, steps: int, epochs: int | None = None) -> None:
        """Give the model that was written at the partial place of `stage_model` its name, and a note of its length."""
        if self._writes:
            target = self.reader.stage_model(stage)
            length = {"steps": steps} | ({"epochs": epochs} if epochs else {})
            note = json.dumps({"stage": stage, **length}) + "\n"
            (partial_of(target) / layout.TRAINED).write_text(note, encoding="utf-8")
            publish(target)

    def finish(self, last_stage: str) -> None:
        """Copy the last stage's model to `final`."""
        if self._writes:
            final = self.path / layout.FINAL
            shutil.copytree(self.reader.stage_model(last_stage), partial_of(final), dirs_exist_ok=True)
            publish(final)

    def _write(self, name: str, text: str) -> None:
        partial_of(self.path / name).write_text(text, encoding="utf-8")
        publish(self.path / name)

"""The reader of a run's records, for every tool that shows or measures a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from llmrl.run_folder import layout
from llmrl.run_folder.layout import Kind, StepName
from llmrl.run_folder.rows import SCHEMA, with_all_columns


class RunReader:
    """Reads the folder of a run, which may still be under way; missing records are empty."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def recipe(self) -> dict[str, Any]:
        """The resolved plan: its name, its run_dir, and under `stages` each stage with every default spelt out."""
        return yaml.safe_load(self._text(layout.RECIPE)) or {}

    @property
    def environment(self) -> dict[str, Any]:
        """The versions, the machine and the command of the run's last start."""
        return self.starts[-1] if self.starts else {}

    @property
    def starts(self) -> list[dict[str, Any]]:
        """The environment of every start, the first and each resumption."""
        return json.loads(self._text(layout.ENVIRONMENT) or "{}").get("starts", [])

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, of all stages in order; a last line that a kill cut short is left out."""
        return self._lines(layout.METRICS)

    @property
    def profile(self) -> dict[str, Any]:
        """The profile of one step of each stage, by the stage's name; empty without `train --profile`."""
        return json.loads(self._text(layout.PROFILE) or "{}")

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """The run's warnings in order, each with its stage, step, metric, value and message, and the step `since`
        which it holds."""
        return self._lines(layout.WARNINGS)

    @property
    def is_ours(self) -> bool:
        """Whether a run wrote the recipe in the folder, if there is one."""
        return not (self.path / layout.RECIPE).exists() or (self.path / layout.ENVIRONMENT).exists()

    @property
    def in_use(self) -> bool:
        """Whether some step was recorded; a run that failed to start does not count."""
        return bool(self.metrics)

    def rollouts(
        self,
        *,
        stage: str | None = None,
        step: int | None = None,
        kind: Kind | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The recorded trajectories, a row each, with the columns of rows.SCHEMA.

        stage, step, kind: only theirs; `step=40, kind="eval"` is the evaluation after step 40. columns: only these.
        """
        files = [file for name, file in self.rollout_files() if _matches(name, stage, step, kind)]
        schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(column) for column in columns])
        # a ParquetFile takes nothing from its path, whereas read_table reads a folder called lr=1 as a column
        tables = [with_all_columns(pq.ParquetFile(file).read(columns=schema.names), schema) for file in files]
        return pa.concat_tables(tables) if tables else schema.empty_table()

    def rollout_files(self) -> list[tuple[StepName, Path]]:
        """Every file of rollouts with the stage, step and kind that it holds, in order."""
        return self._named(layout.ROLLOUTS, "*.parquet")

    @property
    def checkpoints(self) -> dict[StepName, Path]:
        """The folder of every checkpoint, by stage and step, in order."""
        return dict(self._named(layout.CHECKPOINTS, "*"))

    def done(self, stages: Iterable[str] | None = None) -> list[str]:
        """The ones of `stages` (default: all of the recipe) that have a model."""
        names = self.recipe.get("stages", {}) if stages is None else stages
        return [name for name in names if self.trained_steps(name) is not None]

    def trained_steps(self, stage: str) -> int | None:
        """The steps of the stage's model; None if it has none."""
        return self.trained(stage, "steps")

    def trained(self, stage: str, unit: str) -> int | None:
        """The stage's length in steps or epochs; None without a model, and in epochs unless these were given."""
        return _trained(self.stage_model(stage)).get(unit)

    def begun(self, stage: str) -> bool:
        """Whether the stage has a model, or a record of it."""
        return self.trained_steps(stage) is not None or any(row["stage"] == stage for row in self.metrics)

    def is_final(self, stage: str) -> bool:
        """Whether the trained model is the stage's."""
        trained = _trained(self.path / layout.FINAL)
        return bool(trained) and trained == _trained(self.stage_model(stage))

    def stage_model(self, stage: str) -> Path:
        """The folder that holds a stage's model once the stage is finished."""
        return self.path / layout.STAGES / stage

    @property
    def final(self) -> Path | None:
        """The folder of the trained model; None until the run is finished."""
        folder = self.path / layout.FINAL
        return folder if folder.is_dir() else None

    def _lines(self, name: str) -> list[dict[str, Any]]:
        lines = self._text(name).splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _text(self, name: str) -> str:
        file = self.path / name
        return file.read_text(encoding="utf-8") if file.is_file() else ""

    def _named(self, folder: str, pattern: str) -> list[tuple[StepName, Path]]:
        """The paths in `folder` that are named by stage and step, in order, without hidden, half-written ones."""
        paths = [path for path in (self.path / folder).glob(pattern) if not path.name.startswith(".")]
        named = [(layout.parse(path.name.removesuffix(".parquet")), path) for path in paths]
        return sorted((name, path) for name, path in named if name is not None)


def _trained(model: Path) -> dict[str, Any]:
    """The note in a stage's model; empty if there is no such folder."""
    file = model / layout.TRAINED
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _matches(name: StepName, stage: str | None, step: int | None, kind: Kind | None) -> bool:
    return all(asked is None or asked == own for asked, own in zip((stage, step, kind), name, strict=True))

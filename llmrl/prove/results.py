"""The results of runs, one file each: results/<task>/<method>/seed-<n>.json. A run with such a file is done."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from llmrl.run_folder.atomic import partial_of, publish


@dataclass(frozen=True)
class Run:
    """One training run: a method on a task with a seed, from the task's warm-started checkpoint."""

    task: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}/{self.method}/seed-{self.seed}"


@dataclass(frozen=True)
class Result:
    """The measurements of a run.

    before, after: on the held-out prompts, `accuracy` over samples at temperature 1, `greedy` accuracy, `pass@8`.
    entropy: the policy's entropy per token, in nats, at the first and the last step. kl: KL(trained || start) per
    token, in nats, on the last evaluation's samples. tokens: the number of tokens that were sampled to train on.
    fault: the reason why the run could not be finished; the other fields are then empty.
    """

    run: Run
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    entropy: tuple[float, float] | None = None
    kl: float | None = None
    tokens: int = 0
    cpu_seconds: float = 0.0
    fault: str | None = None

    @property
    def gain(self) -> float:
        """The accuracy after training less the accuracy before."""
        return self.after["accuracy"] - self.before["accuracy"]


def is_done(folder: Path, run: Run) -> bool:
    """Return whether the run's result is in `folder`."""
    return _file(folder, run).is_file()


def write_result(folder: Path, result: Result) -> None:
    """Write a result's file, which appears whole or not at all."""
    file = _file(folder, result.run)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_of(file).write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n", encoding="utf-8")
    publish(file)


def read_results(folder: Path) -> list[Result]:
    """Return all results in `folder`, sorted by task, method and seed."""
    files = (folder / "results").glob("*/*/seed-*.json")
    results = [_parse(file.read_text(encoding="utf-8")) for file in files]
    return sorted(results, key=lambda result: (result.run.task, result.run.method, result.run.seed))


def _file(folder: Path, run: Run) -> Path:
    return folder / "results" / f"{run.name}.json"


def _parse(text: str) -> Result:
    fields = json.loads(text)
    entropy = fields["entropy"]
    return Result(**fields | {"run": Run(**fields["run"]), "entropy": entropy and (entropy[0], entropy[1])})

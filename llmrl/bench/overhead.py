"""The overhead of a step: its time over that of vLLM, forward and backward, and the reference's forward alone."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from llmrl.bench.measure import Bar, Figure, Setting, worker
from llmrl.bench.peer import Ran, ours
from llmrl.bench.work import CASES, Case, lay_out

OVERHEAD = Bar(most=1.10)
PARTS = {
    "sampler": "vLLM alone",
    "train": "forward and backward alone",
    "reference": "the reference's forward alone",
}


def measure(setting: Setting) -> list[Figure]:
    """The overhead, the step, and each engine alone over the tokens of the same steps."""
    found: list[Figure] = []
    for name in setting.cases(("tiny",), ("small", "smollm2")):
        found += _of_case(CASES[name], setting)
    return found


def _of_case(case: Case, setting: Setting) -> list[Figure]:
    folder = setting.folder / "overhead" / case.name
    model = lay_out(case, folder)
    runs: list[Ran] = []
    alone: list[list[dict[str, float]]] = []
    for _ in range(setting.rounds):
        runs.append(ours(case, folder, setting))
        alone.append(engines_alone(case, model, folder, setting))
    ratios = [
        median(run.seconds) / sum(median(step[part] for step in steps) for part in PARTS)
        for run, steps in zip(runs, alone, strict=True)
    ]
    bar = None if case.name == "tiny" else OVERHEAD
    return [
        Figure(f"{case.name}: step over its engines alone", ratios, "x", bar),
        Figure(f"{case.name}: step", [one for run in runs for one in run.seconds], "s"),
        *(
            Figure(f"{case.name}: {text}", [step[part] for steps in alone for step in steps], "s")
            for part, text in PARTS.items()
        ),
    ]


def engines_alone(case: Case, model: Path, folder: Path, setting: Setting) -> list[dict[str, Any]]:
    """The seconds of each engine for each step that the run in `folder` recorded and that counts."""
    given = {
        "model": str(model.resolve()),
        "run": "run",
        "steps": list(range(case.dropped + 1, case.steps + 1)),
        "max_model_len": case.prompt_tokens + case.completion_tokens,
        "threads": setting.threads,
    }
    return worker("llmrl.bench.alone", given, folder=folder, setting=setting)

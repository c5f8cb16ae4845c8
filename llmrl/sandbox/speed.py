"""How many programs a second the sandbox runs, and what bounds it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pkgutil
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from llmrl.sandbox.limits import Program, SandboxError
from llmrl.sandbox.sandbox import Sandbox
from llmrl.sandbox.tiers import TIERS, Tier

SECONDS = 3.0
START_SECONDS = 120.0
SILENT_SECONDS = 60.0
"""How much longer than it measures a process may take to say what it found."""
RUN = "llmrl.sandbox.speed:run_program"
BUSY = 0.9
"""From what share of busy processors on they are what bounds the speed."""


@dataclass(frozen=True)
class Speed:
    """Of one kind of work, done by `at_once` processes, each with a sandbox of its own, as reward workers have."""

    per_second: float
    at_once: int
    busy: float

    @property
    def bound(self) -> str:
        """What keeps it from being faster."""
        return "the processors" if self.busy > BUSY else "waiting for each other"


def run_program(sandbox: Sandbox) -> None:
    """The least work there is: a program that prints one line; raises SandboxError if it did not."""
    if sandbox.run(Program({"source": "print(42)"})).stdout != b"42\n":
        raise SandboxError("a program that prints 42 did not")


def counts() -> list[int]:
    """How many at once are measured: 1, 2, 4 and so on, to twice the processors that there are."""
    most = 2 * len(os.sched_getaffinity(0))
    return [1 << power for power in range(most.bit_length()) if 1 << power <= most]


def measured(tier: Tier, work: str, at_once: Iterable[int], *, seconds: float = SECONDS) -> Iterator[Speed]:
    """The speeds of "module:function", which does one piece of work in the sandbox it is given.

    seconds: how long each is measured, once all processes are ready.

    Raises SandboxError if a process has no sandbox or fails at its work.
    """
    context = multiprocessing.get_context("spawn")
    for count in at_once:
        barrier, rates = context.Barrier(count + 1), context.Queue()
        arguments = (tier.name, work, seconds, barrier, rates)
        processes = [context.Process(target=_measure, args=arguments, daemon=True) for _ in range(count)]
        for process in processes:
            process.start()
        with contextlib.suppress(threading.BrokenBarrierError):  # which one has failed it tells below
            barrier.wait(START_SECONDS)
        idle, whole = _processor_time()
        found = _found(rates, processes, seconds + SILENT_SECONDS)
        still_idle, later = _processor_time()
        for process in processes:
            process.join(SILENT_SECONDS)
        yield Speed(sum(found), count, 1 - (still_idle - idle) / max(later - whole, 1))


def _measure(tier: str, work: str, seconds: float, barrier: Barrier, rates: Queue[float | str]) -> None:
    try:
        function = pkgutil.resolve_name(work)
        with Sandbox(TIERS[tier]) as sandbox:
            function(sandbox)
            barrier.wait(START_SECONDS)
            started, done = time.monotonic(), 0
            while time.monotonic() < started + seconds:
                function(sandbox)
                done += 1
            rates.put(done / (time.monotonic() - started))
    except Exception as error:
        barrier.abort()
        rates.put(f"{type(error).__name__}: {error}")


def _found(rates: Queue[float | str], processes: list[SpawnProcess], seconds: float) -> list[float]:
    """What each process measured; raises SandboxError if one failed, or said nothing for so long."""
    found: list[float] = []
    faults: list[str] = []
    for _ in processes:
        try:
            one = rates.get(timeout=seconds)
        except queue.Empty:
            ended = ", ".join(f"exit code {process.exitcode}" for process in processes if process.exitcode is not None)
            faults.append(f"said nothing for {seconds:g} seconds ({ended or 'all still run'})")
            for process in processes:
                process.kill()
            break
        if isinstance(one, str):
            faults.append(one)
        else:
            found.append(one)
    if faults:
        raise SandboxError(f"a process that measures has failed: {min(faults, key=_is_secondary)}")
    return found


def _is_secondary(fault: str) -> bool:
    """Whether it is only that another process has failed."""
    return fault.startswith("BrokenBarrierError")


def _processor_time() -> tuple[int, int]:
    """Of all processors since the start of the machine, in ticks: idle, and in all."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)

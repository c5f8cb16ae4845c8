"""The speed benchmark of the sandbox: programs a second, and what limits that number."""

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
"""A process may take this much longer than the measured time to return its speed."""
RUN = "llmrl.sandbox.speed:run_program"
BUSY = 0.9
"""The processors are what bounds the speed if they are busy for more than this share of the time."""


@dataclass(frozen=True)
class Speed:
    """The speed of `at_once` processes at one kind of work, each with its own sandbox, like reward workers."""

    per_second: float
    at_once: int
    busy: float

    @property
    def bound(self) -> str:
        """The reason why the work is not faster."""
        return "the processors" if self.busy > BUSY else "waiting for each other"


def run_program(sandbox: Sandbox) -> None:
    """Run a program that prints one line, the smallest work to measure; raises SandboxError if the line is missing."""
    if sandbox.run(Program({"source": "print(42)"})).stdout != b"42\n":
        raise SandboxError("a program that prints 42 did not")


def counts() -> list[int]:
    """Return the numbers of processes to measure: 1, 2, 4 and so on, up to twice the number of processors."""
    most = 2 * len(os.sched_getaffinity(0))
    return [1 << power for power in range(most.bit_length()) if 1 << power <= most]


def measured(tier: Tier, work: str, at_once: Iterable[int], *, seconds: float = SECONDS) -> Iterator[Speed]:
    """Yield the speeds of "module:function", which takes a sandbox and does one piece of work in it.

    seconds: the time for which each speed is measured, once all processes are ready. Raises SandboxError if a process
    gets no sandbox or fails at its work.
    """
    context = multiprocessing.get_context("spawn")
    for count in at_once:
        barrier, rates = context.Barrier(count + 1), context.Queue()
        arguments = (tier.name, work, seconds, barrier, rates)
        processes = [context.Process(target=_measure, args=arguments, daemon=True) for _ in range(count)]
        for process in processes:
            process.start()
        with contextlib.suppress(threading.BrokenBarrierError):  # _found raises the error of the process that failed
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
    """Return each process's speed; raises SandboxError if a process failed or said nothing for `seconds`."""
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
    """Return whether the fault only says that another process has failed."""
    return fault.startswith("BrokenBarrierError")


def _processor_time() -> tuple[int, int]:
    """Return all processors' time since the machine started, in ticks: the idle time, and the whole."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)

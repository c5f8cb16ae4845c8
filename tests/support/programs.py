"""Helpers that run a program in a sandbox, and that find and await the processes of a sandbox."""

from __future__ import annotations

import contextlib
import socket
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

from llmrl.sandbox import Execution, Limits, Program, Running, Sandbox

PATIENT = Limits(cpu_seconds=60.0, wall_seconds=120.0)
"""Limits for programs that must end by themselves, however busy the machine is."""

CHANNEL = """
import contextlib, os, socket, stat
def _sockets():
    for descriptor in range(64):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                yield socket.socket(fileno=descriptor)
channel = next(_sockets())
"""
"""The beginning of a program that uses its end of the socket pair as `channel`."""


def run(sandbox: Sandbox, source: str, limits: Limits = PATIENT, **program) -> Execution:
    return sandbox.run(Program(payload={"source": textwrap.dedent(source)}, **program), limits)


def printed(sandbox: Sandbox, source: str, limits: Limits = PATIENT, **program) -> str:
    """Return the output of a program, which must end well."""
    execution = run(sandbox, source, limits, **program)
    assert (execution.ended, execution.exit_code, execution.stderr) == ("exited", 0, b""), execution
    return execution.stdout.decode().removesuffix("\n")


@contextlib.contextmanager
def talking(sandbox: Sandbox, source: str, limits: Limits = PATIENT) -> Iterator[tuple[Running, socket.socket]]:
    """Start a program; yields the running program and the test's end of its channel."""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    with ours:
        with theirs:
            program = Program(payload={"source": CHANNEL + textwrap.dedent(source)}, channel=theirs)
            running = sandbox.start(program, limits)
        yield running, ours


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def line_of_descent(pid: int) -> list[int]:
    """Return a process, its only child, that child's only child, and so on."""
    line = [pid]
    while below := children(line[-1]):
        (child,) = below
        line.append(child)
    return line


def wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < deadline, f"of {pids}, some go on"
        time.sleep(0.002)


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False

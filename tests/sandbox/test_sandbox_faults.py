"""Faults of the sandbox itself and of its caller are errors, and the sandbox works again afterwards."""

from __future__ import annotations

import os
import signal

import pytest
from programs import line_of_descent, printed, run, talking, wait_for_end

import llmrl.sandbox.sandbox as implementation
from llmrl.sandbox import Limits, Program, Sandbox, SandboxError


def test_a_jail_killed_while_it_waits_is_started_again(fresh: Sandbox) -> None:
    run(fresh, "x = 1")
    killed, line = fresh.pid, line_of_descent(fresh.pid)
    os.kill(killed, signal.SIGKILL)
    wait_for_end(line)
    assert printed(fresh, "print(6 * 7)") == "42"
    assert fresh.pid != killed


def test_a_jail_killed_while_a_program_runs_is_an_error_and_started_again(fresh: Sandbox) -> None:
    with talking(fresh, "channel.send(b'x'); channel.recv(1)") as (running, ours):
        ours.recv(1)
        os.kill(fresh.pid, signal.SIGKILL)
        with pytest.raises(SandboxError, match="ended without saying"):
            running.result()
        assert ours.recv(1) == b""  # the program ended with the jail
    assert printed(fresh, "print(6 * 7)") == "42"


@pytest.mark.parametrize("busy", [True, False])
def test_a_supervisor_killed_is_replaced(fresh: Sandbox, busy: bool) -> None:
    with talking(fresh, "channel.send(b'x'); channel.recv(1)") as (running, ours):
        ours.recv(1)
        supervisor = line_of_descent(fresh.pid)[-2]
        if not busy:
            ours.send(b"x")
            assert running.result().exit_code == 0
        os.kill(supervisor, signal.SIGKILL)
        if busy:
            with pytest.raises(SandboxError, match="ended without saying"):
                running.result()
        assert ours.recv(1) == b""
        wait_for_end([supervisor])
    assert printed(fresh, "print(6 * 7)") == "42"


def test_a_silent_supervisor_is_an_error_and_not_waited_for(fresh: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "GRACE_SECONDS", 0.1)
    with talking(fresh, "channel.send(b'x'); channel.recv(1)", Limits(wall_seconds=0.2)) as (running, ours):
        ours.recv(1)
        supervisor = line_of_descent(fresh.pid)[-2]
        os.kill(supervisor, signal.SIGSTOP)
        with pytest.raises(SandboxError, match="silent"):
            running.result()
    monkeypatch.setattr(implementation, "GRACE_SECONDS", 60.0)
    assert printed(fresh, "print(6 * 7)") == "42"


@pytest.mark.parametrize(
    "program",
    [
        Program({}, runner="no_such_runner"),
        Program({"source": "x = 1"}, files={"a": b"", "a/b": b""}),
        Program({"source": "x = 1"}, files={"large": bytes(3 << 20)}),
    ],
    ids=["runner", "files", "no room"],
)
def test_a_program_that_cannot_be_started_is_an_error(sandbox: Sandbox, program: Program) -> None:
    if "large" in program.files and not sandbox.tier.strong:
        pytest.skip("the weak tier has no exact limit on all files together")
    with pytest.raises(SandboxError, match="could not be started"):
        sandbox.run(program, Limits(disk_mb=2, wall_seconds=120.0))
    assert printed(sandbox, "print(6 * 7)") == "42"


def test_a_payload_that_is_no_json_is_an_error(sandbox: Sandbox) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TypeError):
        sandbox.start(Program({"source": b"bytes"}))
    assert len(os.listdir("/proc/self/fd")) == before

"""A sandbox ends with its process or when it is closed, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap

import pytest
from programs import CHANNEL, PATIENT, children, line_of_descent, printed, run, talking

from llmrl.sandbox import Program, Sandbox, SandboxError


def test_a_closed_sandbox_runs_nothing(sandbox: Sandbox) -> None:
    before = len(os.listdir("/proc/self/fd"))
    closed = Sandbox(sandbox.tier)
    with talking(closed, "channel.send(b'x'); channel.recv(1)") as (running, ours):
        ours.recv(1)
        line = line_of_descent(closed.pid)
        closed.close()
        assert ours.recv(1) == b""  # the running program has ended
        with pytest.raises(SandboxError):
            running.result()
    closed.close()
    with pytest.raises(SandboxError, match="closed"):
        run(closed, "x = 1")
    assert not os.path.exists(f"/proc/{line[0]}")
    assert len(os.listdir("/proc/self/fd")) == before


def test_programs_cost_the_trainer_nothing_that_stays(sandbox: Sandbox) -> None:
    run(sandbox, "open('left', 'w').close()")
    before = sorted(os.listdir("/proc/self/fd")), children(os.getpid())
    for source in ("x = 1", "open('left', 'w').close()", "1/0", "import os; os._exit(3)"):
        run(sandbox, source)
    with contextlib.suppress(SandboxError):
        sandbox.run(Program({}, runner="no_such_runner"))
    opened = sorted(os.listdir("/proc/self/fd"))
    assert len(opened) <= len(before[0]) + 1  # the socket of one more supervisor may be open
    assert children(os.getpid()) == before[1]


def test_nothing_lives_on_when_the_trainer_is_killed(sandbox: Sandbox) -> None:
    trainer = """
        import os, sys, time, socket
        from llmrl.sandbox import *
        tier = {tier.name: tier for tier in (NAMESPACES, BUBBLEWRAP, PROCESS)}[sys.argv[1]]
        theirs = socket.socket(fileno=int(sys.argv[2]))
        source = sys.stdin.read()
        running = Sandbox(tier).start(Program({"source": source}, channel=theirs), Limits(wall_seconds=120.0))
        theirs.close()
        running.result()
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    with ours, tempfile.TemporaryDirectory() as folder:  # a killed trainer cannot delete its files
        os.chmod(folder, 0o711)
        with theirs:
            command = [sys.executable, "-c", textwrap.dedent(trainer), sandbox.tier.name, str(theirs.fileno())]
            environment = {**os.environ, "TMPDIR": folder}
            process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()], env=environment)
        assert process.stdin
        with process.stdin as source:
            source.write(CHANNEL.encode() + b"channel.send(b'x'); channel.recv(1)")
        assert ours.recv(1) == b"x"
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert ours.recv(1) == b""


def test_a_forked_process_goes_on_with_a_jail_of_its_own(fresh: Sandbox) -> None:
    run(fresh, "x = 1")
    ours = fresh.pid
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            answered = fresh.run(Program({"source": "print(6 * 7)"}), PATIENT).stdout == b"42\n"
            code = 0 if answered and fresh.pid != ours else 2
            fresh.close()
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert printed(fresh, "print(6 * 7)") == "42"
    assert fresh.pid == ours


def test_shared_is_one_sandbox_that_ends_with_its_process() -> None:
    source = """
        from llmrl.sandbox import Program, shared
        sandbox = shared(allow_weak=True)
        assert shared(allow_weak=True) is sandbox
        assert sandbox.run(Program({"source": "print(42)"})).stdout == b"42\\n"
        print(sandbox.pid)
    """
    pid = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], capture_output=True, check=True).stdout
    assert not os.path.exists(f"/proc/{int(pid)}")

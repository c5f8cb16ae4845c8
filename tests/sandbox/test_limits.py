"""The limits of a program, and the end of a program that passes one."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from programs import printed, run

from llmrl.sandbox import Limits, Sandbox


def test_processor_time_ends_a_program_that_computes_for_ever(sandbox: Sandbox) -> None:
    execution = run(sandbox, "while True: pass", Limits(cpu_seconds=0.2, wall_seconds=120.0))
    assert (execution.ended, execution.exit_code) == ("cpu_time", None)
    assert execution.timed_out
    assert execution.signal == signal.SIGKILL
    assert 0.2 <= execution.cpu_seconds < 2.0


def test_processor_time_counts_every_process(forking: Sandbox) -> None:
    source = """
        import os, time
        for _ in range(4):
            if os.fork() == 0:
                while time.process_time() < 0.2: pass
                os._exit(0)
        for _ in range(4): os.wait()
        print("done")
    """
    if any("CPU" in lack for lack in forking.missing):
        pytest.skip("no /proc shows the processes of a program here")
    assert printed(forking, source, Limits(cpu_seconds=30.0, wall_seconds=120.0)) == "done"
    execution = run(forking, source, Limits(cpu_seconds=0.5, wall_seconds=120.0))  # the processes need 4 * 0.2 s
    assert execution.ended == "cpu_time"
    assert execution.stdout == b""


def test_wall_time_ends_a_program_that_waits_for_ever(sandbox: Sandbox) -> None:
    execution = run(sandbox, "import time; time.sleep(600)", Limits(wall_seconds=0.3))
    assert (execution.ended, execution.exit_code, execution.signal) == ("wall_time", None, signal.SIGKILL)
    assert execution.timed_out
    assert 0.3 <= execution.wall_seconds < 100.0


def test_waiting_costs_no_processor_time(sandbox: Sandbox) -> None:
    limits = Limits(cpu_seconds=0.25, wall_seconds=120.0)
    execution = run(sandbox, "import time; time.sleep(0.4)", limits)
    assert (execution.ended, execution.exit_code) == ("exited", 0)
    assert execution.cpu_seconds < 0.25
    assert execution.wall_seconds > 0.3  # the time begins when the program is confined and runs


def test_output_from_before_the_end_is_kept(sandbox: Sandbox) -> None:
    source = """
        import sys
        print("so far", flush=True)
        print("err", file=sys.stderr)
        while True: pass
    """
    execution = run(sandbox, source, Limits(cpu_seconds=0.3, wall_seconds=120.0))
    assert (execution.ended, execution.stdout, execution.stderr) == ("cpu_time", b"so far\n", b"err\n")


def test_memory_of_one_process_runs_out_inside_it(sandbox: Sandbox) -> None:
    execution = run(sandbox, "x = b'x' * (300 << 20)", Limits(memory_mb=200, wall_seconds=120.0))
    assert (execution.ended, execution.exit_code) == ("exited", 1)
    assert execution.stderr.endswith(b"MemoryError\n")
    assert execution.peak_memory_mb < 200


def test_memory_within_the_limit_is_allowed_and_reported(sandbox: Sandbox) -> None:
    small = run(sandbox, "x = 1")
    large = run(sandbox, "x = b'x' * (80 << 20)", Limits(memory_mb=256, wall_seconds=120.0))
    assert (large.ended, large.exit_code) == ("exited", 0)
    # the difference is 80 MB, give or take the pages that an interpreter touches by itself
    assert 70 < large.peak_memory_mb - small.peak_memory_mb < 100


def test_memory_counts_every_process(forking: Sandbox) -> None:
    source = """
        import os, time
        for _ in range(4):
            if os.fork() == 0:
                x = b"x" * (80 << 20)
                time.sleep(600)
        time.sleep(600)
    """
    if any("memory" in lack for lack in forking.missing):
        pytest.skip("no /proc shows the processes of a program here")
    execution = run(forking, source, Limits(memory_mb=256, wall_seconds=60.0))
    assert execution.ended == "memory"
    assert execution.peak_memory_mb > 256


def test_processes_beyond_the_limit_cannot_be_started(forking: Sandbox) -> None:
    source = """
        import os, time
        started = 0
        try:
            for _ in range(10):
                if os.fork() == 0: time.sleep(600)
                started += 1
        except BlockingIOError: pass
        else: time.sleep(600)
        print(started)
    """
    execution = run(forking, source, Limits(processes=4, wall_seconds=120.0))
    # if the kernel does not count each namespace's processes, the supervisor enforces the limit
    assert execution.ended == "processes" or (execution.ended, execution.stdout) == ("exited", b"4\n")


def test_threads_count_as_processes(sandbox: Sandbox) -> None:
    source = """
        import os, threading, time
        started = 0
        try:
            for _ in range(10):
                threading.Thread(target=time.sleep, args=(600,)).start()
                started += 1
        except RuntimeError:
            print(started, flush=True)
            os._exit(0)
        time.sleep(600)
    """
    execution = run(sandbox, source, Limits(processes=4, wall_seconds=120.0))
    assert execution.ended == "processes" or (execution.ended, execution.stdout) == ("exited", b"4\n")
    allowed = run(sandbox, source, Limits(processes=10, wall_seconds=0.5))
    assert allowed.ended == "wall_time"


def test_open_files_are_limited(sandbox: Sandbox) -> None:
    source = """
        import errno, os
        try:
            while True: last = os.open("/dev/null", os.O_RDONLY)
        except OSError as error: print(last, errno.errorcode[error.errno])
    """
    assert printed(sandbox, source, Limits(open_files=20, wall_seconds=120.0)) == "19 EMFILE"


@pytest.mark.parametrize(
    "opened", ["sys.stdout.buffer", "sys.stderr.buffer", "open('file', 'wb')"], ids=["stdout", "stderr", "file"]
)
def test_output_is_limited(sandbox: Sandbox, opened: str) -> None:
    source = f"""
        import sys
        with {opened} as out:
            for _ in range(64): out.write(b"x" * 1024)
    """
    within, beyond = (run(sandbox, source, Limits(output_kb=kb, wall_seconds=120.0)) for kb in (64, 63))
    assert (within.ended, within.exit_code) == ("exited", 0)
    assert (beyond.ended, beyond.signal) == ("output", signal.SIGXFSZ)
    for name in ("stdout", "stderr"):
        if name in opened:
            assert getattr(within, name) == b"x" * 64 * 1024
            assert getattr(beyond, name) == b"x" * 63 * 1024


def test_the_output_limit_does_not_limit_input(sandbox: Sandbox) -> None:
    source = "import sys; print(len(sys.stdin.buffer.read()), len(open('data', 'rb').read()))"
    content = bytes(3 << 20)
    assert printed(sandbox, source, stdin=content, files={"data": b""}) == f"{3 << 20} 0"


def test_disk_space_is_limited(sandbox: Sandbox) -> None:
    source = """
        import errno, time
        try:
            for place in range(8):
                with open(f"file{place}", "wb") as file: file.write(bytes(1 << 20))
        except OSError as error: print(errno.errorcode[error.errno], place)
        else: time.sleep(600)
    """
    execution = run(sandbox, source, Limits(disk_mb=4, output_kb=2048, wall_seconds=120.0))
    if sandbox.tier.strong:
        assert (execution.ended, execution.stdout) == ("exited", b"ENOSPC 4\n")
    else:
        assert execution.ended == "output"


@pytest.mark.parametrize("name", list(vars(Limits())))
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_are_more_than_nothing(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        replace(Limits(), **{name: value})

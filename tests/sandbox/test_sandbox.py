"""What a program in the sandbox may use, how its end is told, and what the sandbox does when it is itself at fault."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import llmrl
import llmrl.sandbox.sandbox as implementation
from llmrl.sandbox import (
    BUBBLEWRAP,
    NAMESPACES,
    PROCESS,
    Execution,
    Limits,
    Program,
    Running,
    Sandbox,
    SandboxError,
    Tier,
)
from llmrl.sandbox.tiers import ENVIRONMENT, Launch, tiers, visible

PATIENT = Limits(cpu_seconds=60.0, wall_seconds=120.0)
"""For programs that are to end by themselves, however busy the machine is."""

CHANNEL = """
import contextlib, os, socket, stat
def _sockets():
    for descriptor in range(64):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                yield socket.socket(fileno=descriptor)
channel = next(_sockets())
"""
"""In a program: `channel` is its end of the socket pair."""


def sandbox_of(tier: Tier) -> Sandbox:
    try:
        return Sandbox(tier)
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=[NAMESPACES, BUBBLEWRAP, PROCESS], ids=lambda tier: tier.name)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with sandbox_of(request.param) as sandbox:
        yield sandbox


@pytest.fixture
def forking(sandbox: Sandbox) -> Sandbox:
    if "starting processes" in sandbox.missing:
        pytest.skip(f"tier {sandbox.tier.name}: programs cannot start processes here")
    return sandbox


@pytest.fixture
def fresh(sandbox: Sandbox) -> Iterator[Sandbox]:
    """One of the same tier whose processes are those of a single program."""
    with Sandbox(sandbox.tier) as fresh:
        yield fresh


def run(sandbox: Sandbox, source: str, limits: Limits = PATIENT, **program) -> Execution:
    return sandbox.run(Program(payload={"source": textwrap.dedent(source)}, **program), limits)


def printed(sandbox: Sandbox, source: str, limits: Limits = PATIENT, **program) -> str:
    """What a program prints that has to end well."""
    execution = run(sandbox, source, limits, **program)
    assert (execution.ended, execution.exit_code, execution.stderr) == ("exited", 0, b"")
    return execution.stdout.decode().removesuffix("\n")


@contextlib.contextmanager
def talking(sandbox: Sandbox, source: str, limits: Limits = PATIENT) -> Iterator[tuple[Running, socket.socket]]:
    """A program that has started, and our end of its channel."""
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
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def line_of_descent(pid: int) -> list[int]:
    """A process, its only child, and so on."""
    line = [pid]
    while below := children(line[-1]):
        (child,) = below
        line.append(child)
    return line


def wait_for_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# Limits, one by one


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
    execution = run(forking, source, Limits(cpu_seconds=0.5, wall_seconds=120.0))  # 4 * 0.2 s in all
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
    assert execution.wall_seconds > 0.3  # counted from when the program is confined and runs


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


def test_memory_within_the_limit_is_had_and_told(sandbox: Sandbox) -> None:
    small = run(sandbox, "x = 1")
    large = run(sandbox, "x = b'x' * (80 << 20)", Limits(memory_mb=256, wall_seconds=120.0))
    assert (large.ended, large.exit_code) == ("exited", 0)
    # more by the 80 MB, give or take what an interpreter touches of its own
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
    # where users' processes are not counted apart, the limit is seen to from outside
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


def test_output_limit_does_not_bound_what_is_read(sandbox: Sandbox) -> None:
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


# How a program's end is told

ENDINGS = {
    "nothing": "x = 1",
    "code": "import sys; print('before'); sys.exit(3)",
    "no code": "import sys; sys.exit()",
    "message": "import sys; sys.exit('a message')",
    "negative": "raise SystemExit(-1)",
    "large": "raise SystemExit(256 + 5)",
    "bool": "raise SystemExit(True)",
    "exception": "def f(): raise KeyError('k')\nf()",
    "cause": "try:\n  1/0\nexcept ZeroDivisionError as e:\n  raise ValueError('because') from e",
    "at once": "import os; print('lost'); os._exit(7)",
    "assertion": "assert 1 + 1 == 3, 'no'",
    "recursion": "def f(): f()\nf()",
    "syntax": "def f(:\n",
    "indentation": "if True:\nx = 1",
    "registered": "import atexit; atexit.register(print, 'bye'); print('hello')",
    "thread": "import threading, time\ndef f(): time.sleep(0.05); print('late')\n"
    "threading.Thread(target=f).start(); print('early')",
    "daemon": "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); print('on')",
    "thread fails": "import threading\nt = threading.Thread(target=lambda: 1/0); t.start(); t.join(); print('on')",
    "closed": "import sys; print('x'); sys.stdout.close()",
    "main": "if __name__ == '__main__': print(__name__)",
    "annotations": "def f(x: 1 + 1): pass\nprint(f.__annotations__)",
    "pickle": "import pickle\nclass A: x = 1\nprint(pickle.loads(pickle.dumps(A())).x)",
    "end of input": "input()",
    "warning": "import warnings; warnings.warn('careful')",
}


@pytest.mark.parametrize("name", ENDINGS)
def test_programs_end_as_under_python_itself(sandbox: Sandbox, name: str) -> None:
    command = [sys.executable, "-E", "-s", "-S", "-c", ENDINGS[name]]
    python = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    execution = run(sandbox, ENDINGS[name])
    assert execution.ended == "exited"
    assert (execution.exit_code, execution.stdout) == (python.returncode, python.stdout)
    told, expected = (text.splitlines()[-1:] for text in (execution.stderr, python.stderr))
    if name != "warning":  # it names the file
        assert told == expected


def test_a_traceback_begins_with_the_program(sandbox: Sandbox) -> None:
    lines = run(sandbox, "def f():\n    1/0\nf()").stderr.decode().splitlines()
    assert lines[:2] == ["Traceback (most recent call last):", '  File "<program>", line 3, in <module>']


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGXCPU, signal.SIGUSR1])
def test_a_signal_that_ends_a_program_is_told(forking: Sandbox, number: signal.Signals) -> None:
    execution = run(forking, f"import os; print('x', flush=True); os.kill(os.getpid(), {number.value})")
    assert (execution.ended, execution.exit_code, execution.signal) == ("killed", None, number)
    assert execution.stdout == b"x\n"


def test_a_crash_is_told(sandbox: Sandbox) -> None:
    execution = run(sandbox, "import ctypes; ctypes.string_at(0)")
    assert (execution.ended, execution.exit_code, execution.signal) == ("killed", None, signal.SIGSEGV)
    assert execution.report == b"compiled\n"


def test_streams_are_kept_apart_and_byte_for_byte(sandbox: Sandbox) -> None:
    source = """
        import os, sys
        sys.stdout.buffer.write(bytes(range(256)))
        sys.stdout.flush()
        os.write(2, b"\\xff\\0err")
        print("\\u00e9\\u65e5")
    """
    execution = run(sandbox, source)
    assert execution.stdout == bytes(range(256)) + "é日\n".encode()
    assert execution.stderr == b"\xff\0err"


@pytest.mark.parametrize("source", ["def f(:", "x = '\0'", "(" * 500 + ")" * 500, "return 1"])
def test_what_does_not_compile_reports_nothing(sandbox: Sandbox, source: str) -> None:
    execution = run(sandbox, source)
    assert (execution.ended, execution.exit_code, execution.report) == ("exited", 1, b"")
    assert b"Error" in execution.stderr


def test_no_program_can_write_its_report(sandbox: Sandbox) -> None:
    source = """
        import os
        written = []
        for descriptor in range(3, 64):
            try: written.append(os.write(descriptor, b"forged"))
            except OSError: pass
        print(written)
    """
    execution = run(sandbox, source)
    assert (execution.report, execution.stdout) == (b"compiled\n", b"[]\n")


def test_a_program_has_its_standard_streams_open_and_nothing_else(sandbox: Sandbox) -> None:
    source = """
        import os
        opened = []
        for descriptor in range(1024):
            try: opened.append(os.fstat(descriptor) and descriptor)
            except OSError: pass
        print(opened)
    """
    assert printed(sandbox, source) == "[0, 1, 2]"


# What a program gets


def test_files_are_in_the_working_directory(sandbox: Sandbox) -> None:
    files = {"a.bin": bytes(range(256)), "deep/er/b.txt": b"b", "helper.py": b"VALUE = 42", "empty": b""}
    source = """
        import os, helper
        print(sorted(os.path.join(d, f)[2:] for d, _, names in os.walk(".") for f in names))
        print(open("a.bin", "rb").read() == bytes(range(256)), open("deep/er/b.txt").read(), helper.VALUE)
        with open("deep/er/b.txt", "a") as file: file.write("c")
        print(open("deep/er/b.txt").read(), os.path.getsize("empty"))
    """
    assert printed(sandbox, source, files=files).splitlines() == [
        "['a.bin', 'deep/er/b.txt', 'empty', 'helper.py']",
        "True b 42",
        "bc 0",
    ]
    assert printed(sandbox, "import os; print(os.listdir())") == "[]"


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a/../../x", "a\0b", ".."])
def test_files_outside_of_the_working_directory_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="working directory"):
        Program(payload={"source": ""}, files={name: b""})


def test_stdin_is_read_byte_for_byte_and_ends(sandbox: Sandbox) -> None:
    source = "import sys; print(input()); print(sys.stdin.read() == 'two\\nthree', repr(sys.stdin.read()))"
    assert printed(sandbox, source, stdin="é\ntwo\nthree".encode()) == "é\nTrue ''"
    content = bytes(range(256)) * 1000
    source = f"import sys; print(sys.stdin.buffer.read() == bytes(range(256)) * {len(content) // 256})"
    assert printed(sandbox, source, stdin=content) == "True"


def test_a_channel_carries_messages_both_ways_and_ends_with_the_program(sandbox: Sandbox) -> None:
    with talking(sandbox, "channel.sendall(channel.recv(100).upper()); channel.recv(1)") as (running, ours):
        ours.sendall(b"hello")
        assert ours.recv(100) == b"HELLO"
        ours.sendall(b"x")
        assert running.result().exit_code == 0
        assert ours.recv(1) == b""


def test_a_channel_joins_two_programs(sandbox: Sandbox) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        sources = ("channel.send(b'ping'); print(channel.recv(9))", "print(channel.recv(9)); channel.send(b'pong')")
        ends = zip(sources, (one, other), strict=True)
        running = [sandbox.start(Program({"source": CHANNEL + s}, channel=end), PATIENT) for s, end in ends]
    assert [program.result().stdout for program in running] == [b"b'pong'\n", b"b'ping'\n"]


def test_channels_that_could_reach_elsewhere_are_refused() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other, pytest.raises(ValueError, match="channel"):
        Program({"source": ""}, channel=one)
    with socket.socket(socket.AF_INET) as internet, pytest.raises(ValueError, match="channel"):
        Program({"source": ""}, channel=internet)


def test_the_environment_is_the_sandboxs_own(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMRL_TEST_SECRET", "secret")
    with Sandbox(sandbox.tier) as started_with_secret:
        source = "import os, json; print(json.dumps([dict(os.environ), os.getcwd()]))"
        environment, folder = json.loads(printed(started_with_secret, source))
    assert environment == {**ENVIRONMENT, "HOME": folder, "TMPDIR": folder}


def test_a_program_is_alone_in_its_interpreter(sandbox: Sandbox) -> None:
    source = """
        import os, sys
        print(sys.argv, sys.path[0] == os.getcwd(), sys.modules["__main__"].__dict__ is globals())
        found = []
        for name in ("kernel", "supervisor", "warden", "watch", "confined", "folders", "wire", "llmrl"):
            try: found.append(__import__(name).__file__)
            except ModuleNotFoundError: pass
        print(found)
    """
    line, found = printed(sandbox, source).splitlines()
    assert line == "['program.py'] True True"
    assert "jailed" not in found  # there may well be packages of such names


def test_packages_of_this_interpreter_can_be_used(sandbox: Sandbox) -> None:
    source = "import numpy as np; print((np.arange(6.0).reshape(2, 3) @ np.ones(3)).tolist())"
    assert printed(sandbox, source) == "[3.0, 12.0]"


# Several programs


def test_programs_run_at_the_same_time_each_with_files_of_its_own(sandbox: Sandbox) -> None:
    source = """
        import os
        name = channel.recv(9).decode()
        open(name, "w").write(name)
        channel.sendall(b"written")
        channel.recv(1)
        print(name, os.listdir())
    """
    with contextlib.ExitStack() as stack:
        programs = [stack.enter_context(talking(sandbox, source)) for _ in range(5)]
        for place, (_, ours) in enumerate(programs):
            ours.sendall(str(place).encode())
        for _, ours in programs:  # each waits for all
            assert ours.recv(9) == b"written"
        for _, ours in programs:
            ours.sendall(b"x")
        found = [running.result().stdout.decode() for running, _ in programs]
    assert found == [f"{place} ['{place}']\n" for place in range(5)]


def test_programs_see_no_processes_of_others(sandbox: Sandbox) -> None:
    look = """
        import os
        try: pids = [name for name in os.listdir("/proc") if name.isdigit()]
        except PermissionError: pids = [input()]
        read = []
        for pid in {*pids} - {str(os.getpid())}:
            for name in ("environ", "maps", "mem", "fd", "cwd/secret", "root/secret"):
                try: read.append(os.listdir(f"/proc/{pid}/{name}") if name == "fd" else open(f"/proc/{pid}/{name}"))
                except OSError: pass
        print(len({*pids} - {"1", str(os.getpid())}), read)
    """
    source = "open('secret', 'w').close(); channel.sendall(str(os.getpid()).encode()); channel.recv(1)"
    with talking(sandbox, source) as (running, ours):
        neighbour = ours.recv(9)
        assert printed(sandbox, look, stdin=neighbour) == f"{0 if sandbox.tier.strong else 1} []"
        ours.send(b"x")
        assert running.result().exit_code == 0


def test_threads_share_a_sandbox(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(6) as pool:
        numbers = range(24)
        answers = pool.map(lambda n: printed(sandbox, "print(int(input()) ** 2)", stdin=str(n).encode()), numbers)
        assert list(answers) == [str(n**2) for n in numbers]


def test_a_program_leaves_nothing_behind_for_the_next(sandbox: Sandbox) -> None:
    source = """
        import builtins, decimal, json, os, random, signal, sys
        print(hasattr(builtins, "planted"), decimal.getcontext().prec, hasattr(json, "planted"), os.listdir(),
              "PLANTED" in os.environ, sys.getrecursionlimit(), os.umask(0), signal.getsignal(signal.SIGALRM).name,
              oct(os.stat(".").st_mode), os.getcwd() == os.environ["HOME"])
        builtins.planted = json.planted = True
        decimal.getcontext().prec = 5
        sys.setrecursionlimit(5000)
        os.environ["PLANTED"] = "1"
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        os.makedirs("folder/below")
        open("folder/below/planted.py", "w").close()
        open("json.py", "w").close()
        os.chdir("folder")
    """
    clean = "False 28 False [] False 1000 18 SIG_DFL 0o40700 True"
    umask = os.umask(0o022)
    os.umask(umask)
    assert [printed(sandbox, source) for _ in range(3)] == [clean.replace(" 18 ", f" {umask} ")] * 3


def test_a_warm_interpreter_is_used_again_unless_a_program_left_files(fresh: Sandbox) -> None:
    run(fresh, "x = 1")
    line = line_of_descent(fresh.pid)
    run(fresh, "x = 1")
    assert (line_of_descent(fresh.pid), fresh.idle) == (line, 1)
    run(fresh, "open('left', 'w').close()")
    assert fresh.idle == 0


def test_processes_left_behind_end_with_the_program(forking: Sandbox) -> None:
    source = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                channel.sendall(b"x")
                time.sleep(600)
            os._exit(0)
        channel.recv(1)
    """
    with talking(forking, source) as (running, ours):
        assert ours.recv(1) == b"x"
        ours.sendall(b"x")
        assert running.result().exit_code == 0
        assert ours.recv(1) == b""  # nobody holds the other end any more


# Other runners


def test_a_notebook_cell_shows_its_last_expression(sandbox: Sandbox) -> None:
    def cell(source: str) -> tuple[bytes, bytes]:
        execution = sandbox.run(Program({"source": source}, runner="notebook"), PATIENT)
        return execution.stdout, execution.report

    assert cell("x = 6\nprint('a')\nx * 7") == (b"a\n42\n", b"compiled\n")
    assert cell("5\nx = 6") == (b"", b"compiled\n")
    assert cell("None") == (b"", b"compiled\n")
    assert cell("'text'") == (b"'text'\n", b"compiled\n")
    assert cell("def f(:") == (b"", b"")


def test_a_command_is_looked_up_and_run(forking: Sandbox) -> None:
    def command(*argv: str, **program) -> Execution:
        return forking.run(Program({"argv": argv}, runner="command", **program), PATIENT)

    copied = command("sh", "-c", "cat; cat data; echo err >&2; exit 3", stdin=b"in ", files={"data": b"file"})
    assert (copied.exit_code, copied.stdout, copied.stderr) == (3, b"in file", b"err\n")
    assert copied.report == b"compiled\n"
    absent = command("no-such-command")
    assert (absent.exit_code, absent.stdout) == (127, b"")
    assert b"no-such-command: No such file" in absent.stderr
    assert command("sh", "-c", "echo forged >&3; true").report == b"compiled\n"
    killed = command("sh", "-c", "kill -TERM $$")
    assert (killed.ended, killed.signal) == ("killed", signal.SIGTERM)


def test_a_command_cannot_be_run_where_processes_cannot_be_started(sandbox: Sandbox) -> None:
    if "starting processes" not in sandbox.missing:
        pytest.skip(f"tier {sandbox.tier.name}: programs can start processes here")
    execution = sandbox.run(Program({"argv": ["true"]}, runner="command"), PATIENT)
    assert (execution.ended, execution.exit_code) == ("exited", 127)
    assert b"not permitted" in execution.stderr


@pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")
def test_a_program_in_c_is_compiled_and_run(forking: Sandbox) -> None:
    source = b'#include <stdio.h>\nint main(void) { int x; scanf("%d", &x); printf("%d\\n", x * x); return 4; }\n'
    argv = ["sh", "-c", "gcc -O1 main.c -o main && ./main"]
    program = Program({"argv": argv}, runner="command", stdin=b"12", files={"main.c": source})
    execution = forking.run(program, PATIENT)
    assert (execution.stdout, execution.exit_code, execution.stderr) == (b"144\n", 4, b"")


# Honest programs

HONEST = {
    "threads": (
        "import queue, threading\nq = queue.Queue()\n"
        "ts = [threading.Thread(target=lambda n=n: q.put(n * n)) for n in range(5)]\n"
        "[t.start() for t in ts]; [t.join() for t in ts]; print(sorted(q.queue))",
        "[0, 1, 4, 9, 16]",
    ),
    "pool of threads": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(3) as pool: print(list(pool.map(abs, [-1, 2, -3])))",
        "[1, 2, 3]",
    ),
    "asyncio": (
        "import asyncio\nasync def f(n):\n  await asyncio.sleep(0.01 * (3 - n)); print(n); return n\n"
        "async def main(): return await asyncio.gather(*map(f, range(3)), asyncio.to_thread(lambda: 'thread'))\n"
        "print(asyncio.run(main()))",
        "2\n1\n0\n[0, 1, 2, 'thread']",
    ),
    "tempfile": (
        "import os, tempfile\nwith tempfile.TemporaryDirectory() as folder:\n"
        "  with tempfile.NamedTemporaryFile('w+', dir=folder) as f:\n"
        "    f.write('x'); f.flush(); print(open(f.name).read())\n"
        "print(os.path.exists(folder))",
        "x\nFalse",
    ),
    "sqlite": (
        "import sqlite3\nc = sqlite3.connect('a.db'); c.execute('create table t(x)')\n"
        "c.execute('insert into t values (42)'); c.commit(); c.close()\n"
        "print(sqlite3.connect('a.db').execute('select x from t').fetchall())",
        "[(42,)]",
    ),
    "decimal": (
        "from decimal import Decimal, getcontext\ngetcontext().prec = 30; print(Decimal(1) / 7)",
        "0.142857142857142857142857142857",
    ),
    "alarm": (
        "import signal, time\ndef late(*_): raise TimeoutError('late')\nsignal.signal(signal.SIGALRM, late)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.02)\ntry: time.sleep(60)\nexcept TimeoutError as e: print(e)",
        "late",
    ),
    "recursion": (
        "import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return 0 if n == 0 else 1 + f(n - 1)\nprint(f(20000))",
        "20000",
    ),
    "large stack": (
        "import sys, threading\nthreading.stack_size(64 << 20); sys.setrecursionlimit(10**6)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\n"
        "t = threading.Thread(target=lambda: print(f(50000))); t.start(); t.join()",
        "50000",
    ),
    "mapped file": (
        "import mmap\nopen('f', 'wb').write(bytes(4096))\nwith open('f', 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:\n"
        "  m[:2] = b'hi'; m.flush()\nprint(open('f', 'rb').read(2))",
        "b'hi'",
    ),
    "synced": (
        "import os\nwith open('f', 'w') as f: f.write('x'); f.flush(); os.fsync(f.fileno())\nprint(open('f').read())",
        "x",
    ),
    "renamed": (
        "import os, pathlib\np = pathlib.Path('a'); p.write_text('x'); p.rename('b')\n"
        "os.symlink('b', 'c'); os.mkdir('d')\n"
        "print(pathlib.Path('c').read_text(), sorted(os.listdir())); os.unlink('b'); os.rmdir('d')",
        "x ['b', 'c', 'd']",
    ),
    "time zone": (
        "import datetime as d\nprint(d.datetime(2020, 7, 1, tzinfo=d.timezone(d.timedelta(hours=2))).isoformat())",
        "2020-07-01T00:00:00+02:00",
    ),
    "socket pair": ("import socket\na, b = socket.socketpair(); a.sendall(b'x'); print(b.recv(1))", "b'x'"),
    "home": ("import os\nprint(os.path.expanduser('~') == os.getcwd())", "True"),
}
WITH_PROCESSES = {
    "fork": (
        "import os\npid = os.fork()\nif pid == 0: raise SystemExit(5)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))",
        "5",
    ),
    "subprocess": (
        "import subprocess, sys\np = subprocess.run([sys.executable, '-c', 'print(6 * int(input()))'],"
        " input='7', capture_output=True, text=True); print(repr(p.stdout), p.returncode)\n"
        "print(subprocess.getoutput('echo a | tr a b'))",
        "'42\\n' 0\nb",
    ),
    "multiprocessing": (
        "import multiprocessing as m\ndef f(c): c.send(6 * 7)\na, b = m.Pipe(); p = m.Process(target=f, args=(b,))\n"
        "p.start(); print(a.recv()); p.join(); print(p.exitcode)",
        "42\n0",
    ),
    "asyncio": (
        "import asyncio\nasync def main():\n"
        "  p = await asyncio.create_subprocess_exec('echo', 'hi', stdout=asyncio.subprocess.PIPE)\n"
        "  print(await p.communicate())\nasyncio.run(main())",
        "(b'hi\\n', None)",
    ),
    "timed out": (
        "import subprocess\ntry: subprocess.run(['sleep', '60'], timeout=0.05)\n"
        "except subprocess.TimeoutExpired as e: print(e.cmd)",
        "['sleep', '60']",
    ),
    "copied": (
        "import os, shutil\nopen('a', 'w').write('x'); os.chmod('a', 0o755); shutil.copy('a', 'b')\n"
        "print(open('b').read(), oct(os.stat('b').st_mode))",
        "x 0o100755",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_work(sandbox: Sandbox, name: str) -> None:
    source, expected = HONEST[name]
    assert printed(sandbox, source) == expected


@pytest.mark.parametrize("name", WITH_PROCESSES)
def test_honest_programs_with_processes_work(forking: Sandbox, name: str) -> None:
    source, expected = WITH_PROCESSES[name]
    assert printed(forking, source) == expected


def test_the_folder_for_temporary_files_is_ones_own(sandbox: Sandbox) -> None:
    if not sandbox.tier.strong or any(path.startswith("/tmp/") for path in visible()):
        pytest.skip("programs see the machine's own /tmp: the tier is weak, or parts of this Python lie there")
    assert printed(sandbox, "import os; open('/tmp/a', 'w').write('x'); print(os.listdir('/tmp'))") == "['a']"


def test_a_pool_of_processes_works(forking: Sandbox) -> None:
    source = "import multiprocessing\nwith multiprocessing.Pool(2) as pool: print(pool.map(abs, [-1, -2, 3]))"
    assert printed(forking, source) == "[1, 2, 3]"


def test_what_programs_compute_from_hashes_is_the_same_every_time(sandbox: Sandbox) -> None:
    outputs = {printed(sandbox, "print(list({'a', 'b', 'c', 'd', 'e'}), hash('x'))") for _ in range(3)}
    with Sandbox(sandbox.tier) as another:
        outputs.add(printed(another, "print(list({'a', 'b', 'c', 'd', 'e'}), hash('x'))"))
    assert len(outputs) == 1


def test_what_programs_draw_without_a_seed_differs(sandbox: Sandbox) -> None:
    outputs = {printed(sandbox, "import random, uuid; print(random.random(), uuid.uuid4())") for _ in range(3)}
    assert len(outputs) == 3


# When the sandbox itself is at fault


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
        assert ours.recv(1) == b""  # the program went with it
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


def test_a_payload_that_is_no_json_is_the_callers_error(sandbox: Sandbox) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TypeError):
        sandbox.start(Program({"source": b"bytes"}))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_sandbox_runs_nothing(sandbox: Sandbox) -> None:
    before = len(os.listdir("/proc/self/fd"))
    closed = Sandbox(sandbox.tier)
    with talking(closed, "channel.send(b'x'); channel.recv(1)") as (running, ours):
        ours.recv(1)
        line = line_of_descent(closed.pid)
        closed.close()
        assert ours.recv(1) == b""  # what ran has ended
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
    assert len(opened) <= len(before[0]) + 1  # one more supervisor's socket
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
    with ours, tempfile.TemporaryDirectory() as folder:  # for what a killed trainer could not delete
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


# Which sandbox can be had


def failing(*names: str) -> Callable[..., Launch]:
    def launch(tier: Tier, control: int, folder: str) -> Launch:
        if tier.name in names:
            raise OSError(f"no {tier.name} today")
        return original(tier, control, folder)

    original = implementation.launch
    return launch


def test_without_namespaces_a_weak_sandbox_has_to_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "launch", failing("namespaces", "bubblewrap"))
    reasons = ["bubblewrap: no bubblewrap today", "namespaces: no namespaces today"]
    with pytest.raises(SandboxError) as error:
        Sandbox()
    for reason in (*reasons, "process: not allowed (allow_weak)"):
        assert reason in str(error.value)
    with Sandbox(allow_weak=True) as weak:
        assert weak.tier is PROCESS
        assert weak.missing[:3] == [*reasons, "namespaces of its own"]
        assert printed(weak, "print(6 * 7)") == "42"


def test_the_strongest_tier_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    had = []
    for tier in tiers():
        with contextlib.suppress(SandboxError), Sandbox(tier):
            had.append(tier)
    with Sandbox(allow_weak=True) as best:
        assert best.tier is had[0]
    monkeypatch.setattr(implementation, "launch", failing("namespaces", "bubblewrap", "process"))
    with pytest.raises(SandboxError, match="no process today"):
        Sandbox(allow_weak=True)
    with pytest.raises(SandboxError, match="no namespaces today"):
        Sandbox(NAMESPACES)


def test_missing_says_what_programs_find(sandbox: Sandbox) -> None:
    source = "import os\ntry: os._exit(0) if os.fork() == 0 else print('forked')\nexcept OSError as e: print(e.errno)"
    forks = printed(sandbox, source)
    assert forks == (str(errno.EPERM) if "starting processes" in sandbox.missing else "forked")
    assert ("namespaces of its own" in sandbox.missing) == (not sandbox.tier.strong)


def test_a_kernel_without_landlock_is_told(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    if implementation.landlock_version() > 0:
        assert not any("Landlock" in lack for lack in sandbox.missing)
    monkeypatch.setattr(implementation, "landlock_version", lambda: 0)
    assert any("Landlock" in lack for lack in sandbox.missing)


@pytest.mark.parametrize("script, reason", [("echo 'cannot do it' >&2; exit 1", "cannot do it"), ("sleep 60", "start")])
def test_a_jail_that_does_not_start_is_an_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    monkeypatch.setattr(implementation, "launch", lambda *_: Launch(["/bin/sh", "-c", script], ENVIRONMENT))
    monkeypatch.setattr(implementation, "START_SECONDS", 0.5)
    monkeypatch.setattr(implementation, "END_SECONDS", 0.1)
    before = len(os.listdir("/proc/self/fd")), children(os.getpid())
    with pytest.raises(SandboxError, match=reason):
        Sandbox(PROCESS)
    assert (len(os.listdir("/proc/self/fd")), children(os.getpid())) == before


@pytest.mark.skipif(os.getuid() != 0, reason="this process is no root's")
def test_bubblewrap_is_not_used_by_root() -> None:
    with pytest.raises(SandboxError, match="started by root"):
        Sandbox(BUBBLEWRAP)


@pytest.fixture(scope="module")
def copy_for_all() -> Iterator[str]:
    """A copy of what the sandbox is made of, where every user can read it."""
    source = Path(llmrl.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        shutil.copytree(source / "sandbox", f"{folder}/llmrl/sandbox", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(source / "__init__.py", f"{folder}/llmrl")
        yield folder


@pytest.mark.skipif(os.getuid() != 0, reason="this process is no root's: the tests above ran as an unprivileged user")
@pytest.mark.parametrize("tier", ["bubblewrap", "namespaces", "process"])
def test_unprivileged_users_have_it_too(copy_for_all: str, tier: str) -> None:
    python = "/usr/bin/python3"
    if not shutil.which("setpriv") or not os.path.exists(python):
        pytest.skip("no setpriv, or no Python that every user can run")
    if subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False).returncode:
        pytest.skip(f"{python} is older than 3.11")
    if tier == "bubblewrap" and not shutil.which("bwrap"):
        pytest.skip("bwrap is not installed")
    source = f"""
        import os
        from llmrl.sandbox import *
        tier = next(tier for tier in (NAMESPACES, BUBBLEWRAP, PROCESS) if tier.name == {tier!r})
        reads = "try: print(open('/etc/passwd').read())\\nexcept OSError as e: print(type(e).__name__)"
        with Sandbox(tier) as sandbox:
            def run(source, **limits):
                return sandbox.run(Program({{"source": source}}), Limits(wall_seconds=60.0, **limits))
            print(os.getuid(), run("print(6 * 7)").stdout, b"Error" in run(reads).stdout)
            print(run("while True: pass", cpu_seconds=0.2).ended, run("import ctypes; ctypes.string_at(0)").signal)
            print(run("import os\\nprint(os.fork() >= 0)").exit_code == int("starting processes" in sandbox.missing))
    """
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "env", f"PYTHONPATH={copy_for_all}"]
    command += ["PYTHONDONTWRITEBYTECODE=1", python, "-c", textwrap.dedent(source)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["65534 b'42\\n' True", "cpu_time 11", "True"], "")

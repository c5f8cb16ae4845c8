"""The reported end of a program, which is the end that the program has under Python itself."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys

import pytest
from programs import printed, run

from llmrl.sandbox import Sandbox

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


@functools.cache
def under_python(source: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program under Python itself, once for all tiers."""
    command = [sys.executable, "-E", "-s", "-S", "-c", source]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


@pytest.mark.parametrize("name", ENDINGS)
def test_programs_end_as_under_python_itself(sandbox: Sandbox, name: str) -> None:
    python = under_python(ENDINGS[name])
    execution = run(sandbox, ENDINGS[name])
    assert execution.ended == "exited"
    assert (execution.exit_code, execution.stdout) == (python.returncode, python.stdout)
    told, expected = (text.splitlines()[-1:] for text in (execution.stderr, python.stderr))
    if name != "warning":  # a warning names the program's file
        assert told == expected


def test_a_traceback_begins_with_the_program(sandbox: Sandbox) -> None:
    lines = run(sandbox, "def f():\n    1/0\nf()").stderr.decode().splitlines()
    assert lines[:2] == ["Traceback (most recent call last):", '  File "<program>", line 3, in <module>']


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGXCPU, signal.SIGUSR1])
def test_a_signal_that_ends_a_program_is_reported(forking: Sandbox, number: signal.Signals) -> None:
    execution = run(forking, f"import os; print('x', flush=True); os.kill(os.getpid(), {number.value})")
    assert (execution.ended, execution.exit_code, execution.signal) == ("killed", None, number)
    assert execution.stdout == b"x\n"


def test_a_crash_is_reported(sandbox: Sandbox) -> None:
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
def test_a_program_that_does_not_compile_reports_nothing(sandbox: Sandbox, source: str) -> None:
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

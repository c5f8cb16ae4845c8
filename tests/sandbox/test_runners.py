"""Programs other than scripts: notebook cells and commands."""

from __future__ import annotations

import shutil
import signal

import pytest
from programs import PATIENT

from llmrl.sandbox import Execution, Program, Sandbox


def test_a_notebook_cell_shows_its_last_expression(sandbox: Sandbox) -> None:
    def cell(source: str) -> tuple[bytes, bytes]:
        execution = sandbox.run(Program({"source": source}, runner="notebook"), PATIENT)
        return execution.stdout, execution.report

    assert cell("x = 6\nprint('a')\nx * 7") == (b"a\n42\n", b"compiled\n")
    assert cell("5\nx = 6") == (b"", b"compiled\n")
    assert cell("None") == (b"", b"compiled\n")
    assert cell("'text'") == (b"'text'\n", b"compiled\n")
    assert cell("def f(:") == (b"", b"")


def test_a_preamble_runs_before_the_program(sandbox: Sandbox) -> None:
    def ended(preamble: str, source: str) -> Execution:
        return sandbox.run(Program({"preamble": preamble, "source": source}), PATIENT)

    names = "from typing import *\nfrom collections import deque\nx = 1"
    future = ended(names, "from __future__ import annotations\nimport sys\nprint(deque([x]), List, __name__)")
    assert (future.stdout, future.report) == (b"deque([1]) typing.List __main__\n", b"compiled\n")
    assert b'File "<program>", line 2' in ended(names, "x = 5\n1 / 0").stderr
    broken = ended("import nothing_like_this", "print(1)")
    assert (broken.exit_code, broken.stdout) == (1, b"")
    assert broken.report == b"preamble: ModuleNotFoundError: No module named 'nothing_like_this'\n"


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

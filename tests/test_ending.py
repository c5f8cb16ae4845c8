"""How commands end: one line a fault, no traceback, the exit code that the kind of ending has."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from llmrl.ending import Commands, ended
from llmrl.errors import RecipeError, RunStopped


@pytest.fixture
def call(capsys, monkeypatch):
    """(exit code, standard error) of a command whose body is this function."""

    def called(body) -> tuple[int, str]:
        app = typer.Typer(cls=Commands)
        app.command("work")(body)
        app.command("other")(lambda: None)
        monkeypatch.setattr(sys, "argv", ["llmrl", "work"])
        code = ended(app)
        return code, capsys.readouterr().err

    return called


def raising(error: BaseException):
    def body() -> None:
        raise error

    return body


def test_an_expected_end_is_said_in_its_own_words(call):
    assert call(raising(RecipeError("a: wrong", "b: wrong"))) == (2, "llmrl: a: wrong\nllmrl: b: wrong\n")
    assert call(raising(RunStopped("disk full"))) == (1, "llmrl: disk full\n")
    assert call(raising(typer.Exit(143))) == (143, "")
    assert call(lambda: None) == (0, "")


def test_a_long_fault_is_cut_in_its_middle_and_what_steers_a_terminal_is_escaped(call):
    code, said = call(raising(RecipeError(f"a: {'x' * 5000} end", "b: \x1b[31m \u2028 \ud800 é")))
    first, second = said.splitlines()
    assert code == 2 and len(first) < 1300 and first.startswith("llmrl: a: xx") and first.endswith("xx end")
    assert second == r"llmrl: b: \x1b[31m \u2028 \ud800 é"


def test_an_interrupted_command_says_so_in_one_line(call):
    assert call(raising(KeyboardInterrupt())) == (130, "llmrl: interrupted\n")


def test_a_real_interrupt_ends_the_command_with_one_line():
    program = "import signal, typer, llmrl.ending as e\napp = typer.Typer(cls=e.Commands)\n"
    program += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
    program += "@app.command()\ndef a():\n    print('ready', flush=True)\n    import time; time.sleep(60)\n"
    program += "app.command()(lambda: None)\nimport sys; sys.argv = ['llmrl', 'a']; sys.exit(e.ended(app))\n"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, faults = process.communicate(timeout=30)
    assert (process.returncode, faults) == (130, "llmrl: interrupted\n")


def test_an_unexpected_exception_is_one_line_and_a_report(call, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, said = call(raising(ZeroDivisionError("division by zero\nsecond line")))
    line = r"llmrl: unexpected ZeroDivisionError in body \(.*test_ending.py:\d+\): division by zero; "
    found = re.fullmatch(line + r"the traceback is in (\S+)\n", said)
    assert code == 1 and found
    report = Path(found[1]).read_text()
    assert report.startswith("llmrl ") and "Traceback (most recent call last)" in report and "second line" in report


def test_an_exception_whose_message_cannot_be_printed_is_one_line_too(call, tmp_path, monkeypatch):
    class Odd(Exception):
        def __str__(self) -> str:
            raise ValueError

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    code, said = call(raising(Odd()))
    assert code == 1 and said.count("\n") == 1 and "unexpected Odd in body" in said


def test_a_verbose_command_lets_the_exception_through(call, monkeypatch):
    monkeypatch.setenv("LLMRL_VERBOSE", "1")
    with pytest.raises(ZeroDivisionError):
        call(raising(ZeroDivisionError()))


def test_text_that_the_terminal_cannot_write_is_escaped():
    program = "import typer, llmrl.ending as e\napp = typer.Typer(cls=e.Commands)\n"
    program += "@app.command()\ndef a():\n    print('half \\ud800')\n"
    program += "app.command()(lambda: None)\nimport sys; sys.argv = ['llmrl', 'a']; sys.exit(e.ended(app))\n"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "half \\ud800\n", "")


def test_a_reader_that_stops_reading_is_no_fault():
    program = "import typer, llmrl.ending as e\napp = typer.Typer(cls=e.Commands)\n"
    program += "@app.command()\ndef a():\n    for n in range(100_000): print(n)\n"
    program += "app.command()(lambda: None)\nimport sys; sys.argv = ['llmrl', 'a']; sys.exit(e.ended(app))\n"
    piped = f'"{sys.executable}" -c "$PROGRAM" | head -1'
    done = subprocess.run(
        piped, shell=True, capture_output=True, text=True, env=os.environ | {"PROGRAM": program}, timeout=30
    )
    assert (done.stdout, done.stderr) == ("0\n", "")

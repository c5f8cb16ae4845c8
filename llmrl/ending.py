"""How a command ends: every fault, interruption and bug is said in lines without a traceback, with its exit code.

0            done
1            the run stopped, or llmrl or a user's function raised an exception that nobody expected
2            a fault that the user can mend: in the recipe, in a file, in the command line
128 + n      asked to stop by signal n
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

import llmrl
from llmrl.errors import RecipeError, RunStopped, first_line, short

UsageError: Any = typer.BadParameter.__base__
"""click's error for a wrong command line, of the copy of click that typer uses."""

LONGEST_LINE = 1200
"""A fault may quote a value of any length, such as a text of the data."""


class Interrupted(Exception):
    """The user pressed Ctrl-C."""

    exit_code = 130


class Commands(TyperGroup):
    """The commands. An interrupted one raises Interrupted, which can be told from a command's own exit code 130."""

    def invoke(self, ctx: Any) -> object:
        """Call the command that the command line names."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None


def ended(command: Callable[..., object]) -> int:
    """Call a typer app and say how it ended; returns the exit code.

    LLMRL_VERBOSE=1 lets an unexpected exception through, with its traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # data may hold what the terminal's encoding lacks
    try:
        code = command(prog_name="llmrl", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except (RecipeError, RunStopped, Interrupted) as error:
        return _said(str(error), error.exit_code)
    except UsageError as error:
        return _said(f"{error.format_message()} (llmrl {_named(error)}--help)", error.exit_code)
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:
            return _unexpected(error)
        return _said(f"{short(os.fsdecode(error.filename))}: {error.strerror}", RecipeError.exit_code)
    except Exception as error:
        return _unexpected(error)


def _said(text: str, code: int) -> int:
    for line in text.split("\n"):
        print(f"llmrl: {_on_one_line(line)}", file=sys.stderr)
    return code


def readable(text: str, *, keep: str = "") -> str:
    """The text with escapes for characters that would break a line or steer the terminal, but for those in `keep`."""
    return "".join(one if one.isprintable() or one in keep else repr(one)[1:-1] for one in text)


def _on_one_line(line: str) -> str:
    """The line without characters that would break it or steer the terminal, and cut in its middle if long."""
    line = readable(line)
    left = len(line) - LONGEST_LINE
    return line if left <= 0 else f"{line[: LONGEST_LINE // 2]} [{left} characters] {line[-LONGEST_LINE // 2 :]}"


def _named(error: Any) -> str:
    """The command of a wrong command line, as one writes it after `llmrl`."""
    path = error.ctx.command_path if error.ctx else ""
    return "".join(f"{name} " for name in path.split()[1:])


def _unexpected(error: Exception) -> int:
    """Say that an exception came that nobody expected, after its traceback has been written to a file."""
    if os.environ.get("LLMRL_VERBOSE"):
        raise error
    where = traceback.extract_tb(error.__traceback__)[-1]
    try:
        message = first_line(error)
    except Exception:  # the message itself cannot be printed
        message = "no message"
    place = f"{where.name} ({where.filename}:{where.lineno})"
    return _said(f"unexpected {type(error).__name__} in {place}: {message}; {_reported(error)}", 1)


def _reported(error: Exception) -> str:
    text = f"llmrl {llmrl.__version__}, Python {sys.version.split()[0]}\n{' '.join(sys.argv)}\n\n"
    text += "".join(traceback.format_exception(error))
    try:
        handle, name = tempfile.mkstemp(prefix="llmrl-", suffix=".txt")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return "LLMRL_VERBOSE=1 shows the traceback"
    return f"the traceback is in {name}"

"""The runner of plain programs: runs Python source as `python program.py` would."""

from __future__ import annotations

import atexit
import os
import sys
import traceback
import types

COMPILE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def compiled(source: str, report: int) -> types.CodeType:
    """Compile the source and write to the report that it compiled; the report is closed before the program runs."""
    try:
        code = compile(source, "<program>", "exec", dont_inherit=True)
    except COMPILE_ERRORS:
        traceback.print_exc(limit=0)
        sys.exit(1)
    os.write(report, b"compiled\n")
    os.close(report)
    return code


def run_preamble(source: str, module: types.ModuleType) -> None:
    """Run the source that a judge puts before a program; the program's own line numbers and settings stay its own.

    Raises PreambleError if the source fails.
    """
    if not source:
        return
    try:
        exec(compile(source, "<preamble>", "exec", dont_inherit=True), vars(module))
    except BaseException as error:
        raise PreambleError(f"{type(error).__name__}: {error}") from None


class PreambleError(Exception):
    """The preamble fails, so no program can run."""


def main(payload: dict, report: int, channel: int) -> None:
    """Run the source; like Python itself, end an uncaught exception with a traceback and exit code 1.

    payload["preamble"]: source that runs in the same namespace before; if it fails, the report says so.
    """
    module = types.ModuleType("__main__")
    try:
        run_preamble(payload.get("preamble", ""), module)
    except PreambleError as error:
        os.write(report, f"preamble: {error}\n".encode())
        sys.exit(1)
    code = compiled(payload["source"], report)
    sys.modules["__main__"] = module
    sys.argv = ["program.py"]
    sys.path.insert(0, os.getcwd())
    try:
        exec(code, module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        traceback.print_exception(type(error), error, error.__traceback__ and error.__traceback__.tb_next)
        sys.exit(1)
    finally:
        _finish()


def _finish() -> None:
    """Do as Python does before a program ends: wait for its threads, then call its registered exit functions."""
    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()
    atexit._run_exitfuncs()

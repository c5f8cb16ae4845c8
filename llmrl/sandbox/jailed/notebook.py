"""The runner of notebook cells: runs Python source, and prints the value of its last line if that is an expression."""

from __future__ import annotations

import ast

import script


def main(payload: dict, report: int, channel: int) -> None:
    """Run payload["source"] like the script runner, after its last expression was wrapped in a call that prints it."""
    script.main({"source": echoing(payload["source"])}, report, channel)


def echoing(source: str) -> str | ast.Module:
    """Return the program with its last expression printed as at a prompt; source that does not parse is unchanged."""
    try:
        program = ast.parse(source)
    except script.COMPILE_ERRORS:
        return source
    last = program.body[-1] if program.body else None
    if isinstance(last, ast.Expr):
        show = ast.parse("__import__('sys').displayhook", mode="eval").body
        last.value = ast.Call(func=show, args=[last.value], keywords=[])
        ast.fix_missing_locations(program)
    return program

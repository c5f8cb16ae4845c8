"""Code that runs before a program: the names that the judges of contests give to every program."""

from __future__ import annotations

from llmrl.rewards.code.case_formats import CallTests, CodeTests, StdinTests, Tests

OPENED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "typing", "builtins"),
)
"""Modules whose names a program may use as they stand; a later module's name goes first, and Python's own the last."""

MODULES = OPENED[:-2]
"""Modules that a program may use by name."""

NODES = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next


class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right
"""
"""The classes of linked lists and trees, which LeetCode's programs use and do not define."""

JUDGE = "\n".join([*(f"from {module} import *" for module in OPENED), f"import {', '.join(MODULES)}", NODES])
"""The default preamble, as the judges of LeetCode, APPS and LiveCodeBench have it."""


def preamble_for(tests: Tests, own: str | None = None) -> str:
    """Return the code that runs before a program with these tests; own: the recipe's or the row's preamble.

    The default is JUDGE for tests on stdin, for calls, and for test code that uses a class Solution; it is "" for other
    test code, whose sources (MBPP, HumanEval) run plain Python. No preamble defines the function under test.
    """
    contest = not isinstance(tests, CodeTests) or any("Solution" in text for text in _texts(tests))
    preamble = own if own is not None else JUDGE if contest else ""
    name = None if isinstance(tests, StdinTests) else tests.name if isinstance(tests, CallTests) else tests.entry_point
    forgotten = name and name.partition(".")[0].removesuffix("()")
    return f"{preamble}\nglobals().pop({forgotten!r}, None)\n" if preamble and forgotten else preamble


def _texts(tests: CodeTests) -> tuple[str, ...]:
    return (*tests.snippets, tests.setup, tests.entry_point or "")

"""Code that runs before a program: the names that the judges of contests give to every program."""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import re

from llmrl.rewards.code.case_formats import CallTests, CodeTests, StdinTests, Tests

OPENED = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "json", "typing"),
)
"""Modules whose names a program may use as they stand, as on LeetCode; a later module's name goes first."""

OF_SYS = ("argv", "stdin", "stdout", "stderr", "maxsize", "getrecursionlimit", "setrecursionlimit")
"""What a program may use of sys as it stands."""

SORTED = ("SortedDict", "SortedList", "SortedSet")
"""Classes of sortedcontainers, which LeetCode gives too; they are left out where the package is not installed."""

NODES = {
    "ListNode": """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val, self.next = val, next
""",
    "TreeNode": """
class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val, self.left, self.right = val, left, right
""",
}
"""The classes of linked lists and trees, which LeetCode's programs use and do not define."""

_WORD = re.compile(r"[^\W\d]\w*")


def preamble_for(tests: Tests, source: str, own: str | None = None) -> str:
    """Return the code that runs before a program with these tests; own: the recipe's or the row's preamble.

    The default gives the judges' names that occur in the program, if the tests are on stdin, calls, or test code that
    uses a class Solution; other test code, whose sources (MBPP, HumanEval) run plain Python, has none. No preamble
    defines the function under test.
    """
    name = None if isinstance(tests, StdinTests) else tests.name if isinstance(tests, CallTests) else tests.entry_point
    forgotten = name and name.partition(".")[0].removesuffix("()")
    if own is not None:
        return f"{own}\nglobals().pop({forgotten!r}, None)\n" if own and forgotten else own
    if isinstance(tests, CodeTests) and not any("Solution" in text for text in (*tests.snippets, name or "")):
        return ""
    given, used = judge_names(), dict.fromkeys(_WORD.findall(source))
    return "\n".join(given[word] for word in used if word in given and word != forgotten)


@functools.cache
def judge_names() -> dict[str, str]:
    """Return every name that a judge gives, with the code that defines it. Python's own names stay as they are."""
    names = {name: f"from sys import {name}" for name in OF_SYS}
    for module in OPENED:
        found = importlib.import_module(module)
        public = getattr(found, "__all__", [name for name in vars(found) if not name.startswith("_")])
        names |= {name: f"from {module} import {name}" for name in public}
    names |= {module: f"import {module}" for module in ("sys", *OPENED)}
    if importlib.util.find_spec("sortedcontainers"):
        names |= {name: f"from sortedcontainers import {name}" for name in SORTED}
    return {name: code for name, code in names.items() if name not in vars(builtins)} | NODES

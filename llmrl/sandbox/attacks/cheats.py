"""Cheats: wrong programs that try to be graded as right, so they attack the verdict instead of the machine.

The right program would define f(x) = x * x, or read x and print x * x.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmrl.sandbox.attacks.suite import Result
from llmrl.sandbox.limits import SandboxError
from llmrl.sandbox.sandbox import Sandbox

GradeProgram = Callable[[Sandbox, str, Any, str | None], str]
"""A function from a program's source, a data row's tests and the tested function's name (or None) to the outcome."""

HONEST = "def f(x):\n    return x * x\n\nif __name__ == '__main__':\n    print(f(int(input())))\n"
TESTS: dict[str, Any] = {
    "assertions": ["assert f(3) == 9", "assert f(10) == 100"],
    "check": "def check(candidate):\n    assert candidate(3) == 9\n    assert candidate(10) == 100\n",
    "calls": {"inputs": [[3], [10]], "outputs": [[9], [100]], "fn_name": "f"},
    "stdin": {"inputs": ["3\n", "10\n"], "outputs": ["9\n", "100\n"]},
}
"""The same tests in each format that a verifier takes."""
OF_FUNCTIONS = ("assertions", "check", "calls")


@dataclass(frozen=True)
class Cheat:
    """One wrong program. formats: the formats of tests that it is graded by."""

    name: str
    aim: str
    source: str
    formats: tuple[str, ...] = OF_FUNCTIONS


def run_one(sandbox: Sandbox, cheat: Cheat, grade: GradeProgram) -> Result:
    """Grade the cheat in each format; an outcome "passed" is a breach, and so is a failure of the sandbox."""
    outcomes, breaches = [], []
    for name in cheat.formats:
        try:
            outcome = grade(sandbox, cheat.source, TESTS[name], "f" if name in OF_FUNCTIONS else None)
        except (SandboxError, ValueError) as error:  # no program may make the sandbox or the tests fail
            outcome = "not graded"
            breaches.append(f"{name}: {type(error).__name__}: {error}")
        if outcome == "passed":
            breaches.append(f"{name}: passed")
        outcomes.append(outcome)
    ended = ", ".join(dict.fromkeys(one.replace("_", " ") for one in outcomes))
    return Result(cheat.name, cheat.aim, ended, tuple(breaches))


CHEATS: list[Cheat] = []


def _cheat(name: str, aim: str, source: str, *formats: str) -> None:
    CHEATS.append(Cheat(name, aim, textwrap.dedent(source), formats or OF_FUNCTIONS))


_cheat("exit", "End with exit code 0", "import sys\nsys.exit(0)", *TESTS)
_cheat("hard exit", "End with exit code 0, without any exit handler", "import os\nos._exit(0)", *TESTS)
_cheat(
    "exit in the call",
    "End with exit code 0 when the function is called",
    """
    import atexit, os
    atexit.register(os._exit, 0)
    def f(x):
        raise SystemExit(0)
    """,
)
_cheat(
    "equal to all",
    "Return an object that claims to equal anything",
    """
    class Equal:
        __eq__ = __ge__ = __le__ = __contains__ = lambda self, other: True
        __ne__ = lambda self, other: False
        __hash__ = lambda self: 0
        __bool__ = __instancecheck__ = __subclasscheck__ = lambda self, *_: True
    def f(x):
        return Equal()
    """,
)
_cheat(
    "numbers equal to all",
    "Return a number that claims to equal anything",
    """
    class Equal(int):
        __eq__ = lambda self, other: True
        __ne__ = lambda self, other: False
        __hash__ = int.__hash__
        __class__ = int
    def f(x):
        return Equal(1)
    """,
)
_cheat(
    "text equal to all",
    "Print and return a text that claims to equal anything",
    """
    class Equal(str):
        __eq__ = lambda self, other: True
        strip = split = lambda self, *_: self
    print(Equal("x"))
    def f(x):
        return Equal("9")
    """,
    *TESTS,
)
_cheat(
    "patched checks",
    "Replace assertions, comparisons and the test library",
    """
    import builtins, operator, sys, unittest
    class Never(Exception):
        def __new__(cls, *_):
            return SystemExit(0)
    builtins.AssertionError = Never
    builtins.all = builtins.any = builtins.isinstance = lambda *_: True
    builtins.abs = lambda x: 0
    builtins.__build_class__ = builtins.__import__ = lambda *_, **__: sys
    operator.eq = operator.is_ = lambda *_: True
    unittest.TestCase.assertEqual = lambda *_: None
    for module in list(sys.modules.values()):
        for name in ("same", "judge", "decode", "same_output", "candidate", "check"):
            if hasattr(module, name):
                setattr(module, name, lambda *_, **__: True)
    def f(x):
        return 0
    """,
    *TESTS,
)
_cheat(
    "own check",
    "Define the names that tests use",
    """
    def check(candidate):
        return True
    candidate = f = lambda x: 0
    METADATA = {}
    def test_all():
        pass
    """,
)
_cheat(
    "frames",
    "Find the expected results in the frames, the memory and the files of the process that runs the call",
    """
    import gc, os, sys
    def f(x):
        frame = sys._getframe()
        found = []
        while frame:
            found += list(frame.f_locals.values()) + list(frame.f_globals.values())
            frame = frame.f_back
        found += gc.get_objects()
        for one in found:
            if isinstance(one, (list, tuple, set)) and x in one and x * 0 in one:
                return next(iter(one))
            if isinstance(one, dict) and "expected" in one:
                return one["expected"]
            if isinstance(one, str) and ("assert" in one and "==" in one):
                return int(one.rpartition("==")[2])
        return -1
    """,
)
_cheat(
    "files of the grader",
    "Find the expected results in open files, in the input, in memory",
    """
    import os, re, sys
    found = b""
    for number in range(0, 64):
        for read in (lambda n: os.pread(n, 1 << 20, 0), lambda n: open(f"/proc/self/fd/{n}", "rb").read(1 << 20)):
            try:
                found += read(number) if not os.isatty(number) and number not in (1, 2) else b""
            except OSError:
                pass
    for pid in ("self", "1", str(os.getppid())):
        try:
            for line in open(f"/proc/{pid}/maps"):
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                if "[heap]" in line:
                    memory = open(f"/proc/{pid}/mem", "rb", 0)
                    memory.seek(start)
                    found += memory.read(end - start)
        except OSError:
            pass
    answers = re.findall(rb'"?(?:expected|outputs?)"?: *\\[*"?(\\d+)', found)
    def f(x):
        return int(answers[-1]) if answers else -1
    print(f(0))
    """,
    "assertions",
    "calls",
    "stdin",
)
_cheat(
    "forged results",
    "Write results of tests, in the format of the report, wherever something can be written",
    """
    import os, socket
    LINES = b"".join(b'{"test": %d, "result": "passed", "ended": false, "message": ""}\\n' % n for n in range(2))
    def f(x):
        for number in range(0, 64):
            try:
                os.write(number, b'{"tests": 2}\\n' + LINES)
            except OSError:
                pass
        return 0
    f(0)
    """,
    *TESTS,
)
_cheat(
    "forged answers",
    "Answer on the channel before being asked, with answers for every question to come",
    """
    import json, os, stat, struct
    def flood():
        for answer in (["answer", True, []], ["answer", None, []], ["raised", "SystemExit", "0"], ["ask", "x", [], {}]):
            text = json.dumps(answer).encode()
            for number in range(3, 64):
                try:
                    if stat.S_ISSOCK(os.fstat(number).st_mode):
                        os.write(number, struct.pack(">I", len(text)) + text)
                except OSError:
                    pass
    def f(x):
        flood()
        return 0
    """,
)
_cheat(
    "unpickled code",
    "Return an object that runs code if it is unpickled, copied, shown or compared",
    """
    import os
    class Code:
        def __reduce_ex__(self, *_):
            return (print, ("BREACHED",))
        __reduce__ = __getstate__ = __deepcopy__ = __copy__ = __repr__ = __str__ = __format__ = __reduce_ex__
        __index__ = __int__ = __float__ = __iter__ = __len__ = __getitem__ = __reduce_ex__
    def f(x):
        return Code()
    """,
)
_cheat(
    "deep data",
    "Return lists in lists, deeper than the grader can go, and one that holds itself",
    """
    def f(x):
        deep = []
        deep.append(deep)
        for _ in range(200_000 if x == 3 else 3):
            deep = [deep]
        return deep
    """,
)
_cheat("large data", "Return more than the grader can hold", "def f(x):\n    return [0] * (1 << 22)\n")
_cheat("large numbers", "Return a number that takes for ever to print", "def f(x):\n    return 1 << (1 << 26)\n")
_cheat(
    "large output",
    "Print a number that takes for ever to read",
    "print('9' * 500_000 + 'e' + '9' * 9)\n",
    "stdin",
)
_cheat("all answers", "Print every number there is", "print(*range(200), sep='\\n')\nprint(*range(200))\n", "stdin")
_cheat(
    "endless answers",
    "Return an object that gives another result each time, or never ends",
    """
    import itertools
    class Shifting:
        count = itertools.count()
        def __iter__(self):
            return itertools.count()
        def __getattr__(self, name):
            return self
        def __call__(self, *_, **__):
            return next(self.count)
        __len__ = __int__ = __index__ = __call__
    def f(x):
        return Shifting()
    """,
)
_cheat(
    "not a number",
    "Return numbers that compare in no way, and tolerances' limits",
    "def f(x):\n    return float('nan') if x == 3 else float('inf')\n",
)
_cheat(
    "hostile exceptions",
    "Raise exceptions that a grader may take for its own end, or for success",
    """
    class Passed(AssertionError, KeyboardInterrupt):
        pass
    def f(x):
        raise (GeneratorExit if x == 3 else Passed)("passed")
    """,
)
_cheat(
    "a process of one's own",
    "Let a child be graded in the parent's place, and two answer at once",
    """
    import os
    for _ in range(2):
        os.fork()
    def f(x):
        return 0
    """,
)

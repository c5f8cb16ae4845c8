"""Right programs pass, wrong ones get what they deserve, and nothing else passes: all in the real sandbox."""

from __future__ import annotations

import asyncio
import json
import math
import textwrap

import pytest

from llmrl.rewards import code_verifier as module
from llmrl.rewards import program_tests
from llmrl.rewards.base import Rewards
from llmrl.rewards.code_verifier import code_verifier, verdict_key
from llmrl.rewards.program_tests import same_output
from llmrl.rewards.workers import Workers
from llmrl.sandbox import Limits, SandboxError, shared
from llmrl.types import ACTOR, Group, Prompt, Score, Trajectory, Turn


def completion(source: str) -> str:
    return f"I think so:\n\n```python\n{textwrap.dedent(source)}\n```\n"


def graded(source: str, tests, *, row: dict | None = None, **settings) -> Score:
    return code_verifier(completion(source), {"tests": tests, **(row or {})}, **settings)


def outcome(source: str, tests, **settings) -> str | None:
    score = graded(source, tests, **settings)
    assert score.correct is (score.outcome == "passed")
    assert score.level == {"passed": 3, "wrong": 2, "runtime_error": 1, "timeout": 1}.get(score.outcome, 0)
    assert score.value == float(score.correct)
    return score.outcome


# Right programs: stdin and stdout

SUMS = {"inputs": ["2\n1 2\n3 4\n", "1\n-5 5"], "outputs": ["3\n7\n", "0"]}


SCRIPTS = {
    "input": """
        for _ in range(int(input())):
            print(sum(map(int, input().split())))
        """,
    "stdin": """
        import sys
        for line in sys.stdin.read().split("\\n")[1:]:
            if line:
                print(sum(map(int, line.split())))
        """,
    "buffer": """
        import sys
        data = sys.stdin.buffer.read().split()[1:]
        for a, b in zip(data[::2], data[1::2]):
            print(int(a) + int(b))
        """,
    "os.read": """
        import os
        d = os.read(0, 1000).split()[1:]
        os.write(1, "\\n".join(str(int(a) + int(b)) for a, b in zip(d[::2], d[1::2])).encode())
        """,
    "iteration and spaces": """
        import sys
        next(sys.stdin)
        for line in sys.stdin:
            a, b = line.split()
            sys.stdout.write(f" {int(a) + int(b)} \\r\\n")
        print()
        """,
    "readline": """
        input = __import__("sys").stdin.readline
        for _ in range(int(input())):
            a, b = input()[:-1].split(" ")
            print(int(a) + int(b))
        """,
    "main block": """
        def main():
            for _ in range(int(input())):
                print(sum(map(int, input().split())))

        if __name__ == "__main__":
            main()
        """,
    "fileinput and exit": """
        import fileinput
        rows = list(fileinput.input())[1:]
        print(*(sum(map(int, row.split())) for row in rows), sep="\\n")
        exit(0)
        """,
    "deep thread": """
        import sys, threading
        sys.setrecursionlimit(10**6)
        threading.stack_size(2**26)

        def main():
            def deep(n):
                return 0 if n == 0 else deep(n - 1)
            deep(50_000)
            for _ in range(int(input())):
                print(sum(map(int, input().split())))

        thread = threading.Thread(target=main)
        thread.start()
        thread.join()
        """,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_right_programs_that_read_and_print(name):
    assert outcome(SCRIPTS[name], SUMS) == "passed"


@pytest.mark.parametrize(
    ("printed", "expected", "tolerance", "same"),
    [
        ("1 2\n3\n\n\n", "1 2\n3", 0.0, True),
        ("  1 2  \n3", "1 2\n3\n", 0.0, True),
        ("1  2", "1 2", 0.0, True),
        ("1\n2", "1 2", 0.0, False),
        ("1\n\n2", "1\n2", 0.0, False),
        ("", "", 0.0, True),
        ("", "0", 0.0, False),
        ("1.50", "1.5", 0.0, True),
        ("1e3", "1000", 0.0, True),
        ("1.0", "1", 0.0, True),
        ("0.30000001", "0.3", 0.0, False),
        ("0.30000001", "0.3", 1e-6, True),
        ("1000000.5", "1000000", 1e-6, True),  # 0.5 <= 1e-6 * 1e6
        ("1000002", "1000000", 1e-5, False),  # integers are exact
        ("12345678901234567891", "12345678901234567890", 1e-6, False),
        ("007", "7", 0.0, True),
        ("Yes", "YES", 0.0, False),
        ("nan", "nan", 0.0, True),
        ("nan", "1.0", 1.0, False),
        ("1_0", "10", 0.0, False),
        ("٣", "3", 0.0, False),
        ("inf", "1e999", 0.5, False),
        ("1e999", "1e998", 0.0, True),  # both are infinity, and no time is spent on their digits
        ("9" * 100_000 + ".5", "9" * 100_000 + ".4", 1e-6, False),
        ("abc", "abc d", 0.0, False),
    ],
    ids=range(25),
)
def test_same_output(printed, expected, tolerance, same):
    assert same_output(printed, expected, tolerance=tolerance) is same


def test_float_tolerance_of_output_and_results():
    source = "print(0.1 + 0.2)\ndef f(): return [0.1 + 0.2]"
    for tests in ({"inputs": [""], "outputs": ["0.3"]}, {"inputs": [[]], "outputs": [[[0.3]]], "fn_name": "f"}):
        assert outcome(source, tests) == "wrong"
        assert outcome(source, tests, float_tolerance=1e-9) == "passed"


# Right programs: functions

PROMPT = '''from typing import List


def shift(text: str) -> str:
    """Each letter becomes the next one."""
    return "".join(chr((ord(c) - 96) % 26 + 97) for c in text)


def unshift(text: str) -> str:
    """Undo shift.
    >>> unshift("bcd")
    'abc'
    """
'''

CHECK = """
METADATA = {"dataset": "test"}


def check(candidate):
    for text in ("abc", "xyz", ""):
        assert candidate(shift(text)) == text, "Prompt"
    assert candidate("bcd") == "abc"
"""

BODY = '    return "".join(chr((ord(c) - 98) % 26 + 97) for c in text)\n'
HUMAN_EVAL = {"prompt": PROMPT, "test": CHECK, "entry_point": "unshift"}
COLUMNS = {"tests": "test", "entry_point": "entry_point", "prefix": "prompt"}


def test_a_function_that_a_prompt_begins():
    for text, extract in (
        (f"```python\n{PROMPT}{BODY}```", "fenced"),
        (f"```python\n{BODY}```", "fenced"),
        (BODY, "all"),
        (f"<answer>\n{BODY}</answer>", "tag"),
    ):
        assert code_verifier(text, HUMAN_EVAL, extract=extract, **COLUMNS) == Score(
            1.0, True, outcome="passed", level=3
        )
    assert code_verifier("    return text", HUMAN_EVAL, extract="all", **COLUMNS).outcome == "wrong"
    # with a shift of its own the program agrees with itself, not with the prompt
    cheat = f"```python\n{PROMPT}    return text\n\ndef shift(text):\n    return text\n```"
    assert code_verifier(cheat, HUMAN_EVAL, **COLUMNS).outcome == "wrong"


def test_asserts_and_their_setup():
    source = """
        import math
        class Pair(object):
            def __init__(self, a, b):
                self.a, self.b = a, b
        def longest(pairs):
            best = [1] * len(pairs)
            for i in range(len(pairs)):
                for j in range(i):
                    if pairs[i].a > pairs[j].b: best[i] = max(best[i], best[j] + 1)
            return max(best)
        def area(r): return math.pi * r * r
        """
    tests = [
        "assert longest([Pair(5, 24), Pair(15, 25), Pair(27, 40), Pair(50, 60)]) == 3",
        "assert math.isclose(area(2), 12.566370614359172, rel_tol=0.001)",
        "assert longest(some) == 1",
    ]
    assert outcome(source, tests, row={"code": "some = [Pair(1, 2)]"}, setup="code") == "passed"


CALLS = {"inputs": [[[3, 1, 2]], [[]]], "outputs": [[[1, 2, 3]], [[]]], "fn_name": "ordered"}


FUNCTIONS = {
    "plain": "def ordered(items): return sorted(items)",
    "tuple": "def ordered(items): return tuple(sorted(items))",
    "in place": """
        def ordered(items):
            items.sort()
            return items
        """,
    "method": """
        class Solution:
            def ordered(self, items):
                return sorted(items)
        """,
    "printing": """
        def ordered(items):
            print("debugging", items)
            return sorted(items)
        """,
    "recursion": """
        def ordered(items):
            if len(items) < 2:
                return items
            pivot, *rest = items
            small, large = [x for x in rest if x < pivot], [x for x in rest if x >= pivot]
            return ordered(small) + [pivot] + ordered(large)
        """,
    "threads": """
        from concurrent.futures import ThreadPoolExecutor

        def ordered(items):
            with ThreadPoolExecutor(2) as pool:
                return list(pool.map(int, sorted(items)))
        """,
    "numpy": """
        import numpy as np

        def ordered(items):
            return np.sort(np.array(items, dtype=int))
        """,
    "builtin": "ordered = sorted",
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_functions(name):
    assert outcome(FUNCTIONS[name], CALLS) == "passed"


def test_livecodebench_rows():
    tests = [{"input": "[3, 1]\n2", "output": "[6, 2]", "testtype": "functional"}]
    source = "class Solution:\n    def scaled(self, items, by):\n        return [x * by for x in items]"
    row = {"name": "scaled"}
    assert outcome(source, json.dumps(tests), row=row, entry_point="name") == "passed"
    pairs = [{"input": "3\n", "output": "9\n", "testtype": "stdin"}]
    assert outcome("print(int(input()) ** 2)", json.dumps(pairs)) == "passed"


def test_objects_generators_and_exceptions():
    source = """
        class Account:
            def __init__(self, owner, balance=0):
                self.owner, self.balance = owner, balance
            def withdraw(self, amount):
                if amount > self.balance:
                    raise ValueError('not enough')
                self.balance -= amount
                return self

        def primes():
            found = []
            n = 2
            while True:
                if all(n % p for p in found):
                    found.append(n)
                    yield n
                n += 1

        def ack(m, n):
            return n + 1 if m == 0 else ack(m - 1, 1) if n == 0 else ack(m - 1, ack(m, n - 1))
        """
    tests = """
import itertools

from solution import Account, ack, primes


def test_account():
    account = Account('x', 10)
    assert account.withdraw(3).balance == 7
    assert account.balance == 7
    try:
        account.withdraw(100)
        assert False
    except ValueError as error:
        assert 'enough' in str(error)


def test_primes():
    assert list(itertools.islice(primes(), 5)) == [2, 3, 5, 7, 11]


def test_ack():
    assert ack(2, 3) == 9
"""
    assert outcome(source, tests) == "passed"
    assert graded(source.replace("n + 1 if", "n if"), tests, partial=True).value == pytest.approx(2 / 3)


def test_property_tests():
    tests = """
from hypothesis import given, strategies as st

@given(st.lists(st.integers()))
def test_reverses(items):
    assert flip(flip(items)) == items
    assert flip(items) == list(reversed(items))
"""
    assert outcome("def flip(items): return items[::-1]", tests) == "passed"
    assert outcome("def flip(items): return items", tests) == "wrong"


# How programs fail


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print(1)", "wrong"),
        ("print(int(input()) * 2)\nimport sys\nsys.exit(1)", "runtime_error"),
        ("print(int(input()) * 2)\nraise KeyError(1)", "runtime_error"),
        ("input(); input()", "runtime_error"),
        ("x = bytearray(10**10)", "runtime_error"),
        ("while True: print('x' * 10000)", "runtime_error"),
        ("while True: pass", "timeout"),
        ("import time; time.sleep(60)", "timeout"),
        ("print(int(input()) * 2", "compile_error"),
        ("print('\x00')", "compile_error"),
        ("return 5", "compile_error"),
        ("(" * 10_000, "compile_error"),
    ],
    ids=range(12),
)
def test_failures_of_scripts(source, expected):
    tests = {"inputs": ["3\n"], "outputs": ["6"]}
    assert outcome(source, tests, cpu_seconds=1, wall_seconds=3) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(n): return n", "wrong"),
        ("def f(n): return str(2 * n)", "wrong"),
        ("def f(n): return None", "wrong"),
        ("def g(n): return 2 * n", "runtime_error"),
        ("def f(): return 6", "runtime_error"),
        ("def f(n): return f(n)", "runtime_error"),
        ("def f(n): return bytearray(10**10)", "runtime_error"),
        ("def f(n): raise AssertionError", "runtime_error"),
        ("x = 1 / 0\ndef f(n): return 2 * n", "runtime_error"),
        ("x = input()\ndef f(n): return 2 * n", "runtime_error"),
        ("def f(n):\n    while True: pass", "timeout"),
        ("while True: pass", "timeout"),
        ("import time\ndef f(n): time.sleep(60)", "timeout"),
        ("def f(n): return 2 * n)", "compile_error"),
    ],
    ids=range(14),
)
def test_failures_of_functions(source, expected):
    settings = {"cpu_seconds": 1, "wall_seconds": 3}
    assert outcome(source, {"inputs": [[3]], "outputs": [6], "fn_name": "f"}, **settings) == expected
    assert outcome(source, ["assert f(3) == 6"], **settings) == expected


def test_no_program():
    for text in ("no code", "```python\nprint(6)"):
        score = code_verifier(text, {"tests": {"inputs": ["3"], "outputs": ["6"]}}, compile_error=-1.0)
        assert score == Score(-1.0, False, outcome="no_program", level=0)


VALUES = {"passed": 2.0, "wrong": -0.3, "timeout": -0.5, "runtime_error": -0.6, "compile_error": -1.0}


def test_every_outcome_has_its_value():
    for source, value in (
        ("print(6)", 2.0),
        ("print(5)", -0.3),
        ("while True: pass", -0.5),
        ("1 / 0", -0.6),
        ("1 /", -1.0),
    ):
        tests = {"inputs": ["3"], "outputs": ["6"]}
        assert graded(source, tests, cpu_seconds=0.5, **VALUES).value == value


def test_partial_is_the_mean_over_tests():
    tests = {"inputs": ["1", "2", "x", "4"], "outputs": ["1", "2", "3", "5"]}
    # passes 1 and 2, raises on x, is wrong on 4: the first failure is a runtime error, so (2 + 2 - 0.6 - 0.6) / 4
    score = graded("print(int(input()))", tests, partial=True, **VALUES)
    assert score.value == pytest.approx(0.7)
    assert (score.outcome, score.level) == ("runtime_error", 1)
    # nothing after a timeout: (2 - 0.5 - 0.5 - 0.5) / 4
    hangs = "n = input()\nwhile n == '2': pass\nprint(n)"
    assert graded(hangs, tests, partial=True, cpu_seconds=0.5, **VALUES).value == pytest.approx(0.125)
    # code: passed, wrong, raised, passed: (2 - 0.3 - 0.3 + 2) / 4
    asserts = ["assert f(1) == 1", "assert f(2) == 3", "assert f(None) == 1", "assert f(4) == 4"]
    score = graded("def f(n): return n + 0", asserts, partial=True, **VALUES)
    assert score.value == pytest.approx(0.85)
    assert score.outcome == "wrong"
    # dead from the second call on: (2 - 0.6 - 0.6 - 0.6) / 4
    score = graded("import os\ndef f(n): return n if n == 1 else os._exit(0)", asserts, partial=True, **VALUES)
    assert score.value == pytest.approx(0.05)
    # a compile error has no share, a passed program all of it
    assert graded("def f(", asserts, partial=True, **VALUES).value == -1.0
    assert graded("def f(n): return n", asserts[:1], partial=True, **VALUES).value == 2.0


def test_max_tests_counts_from_the_first():
    tests = {"inputs": ["1", "2"], "outputs": ["1", "9"]}
    assert outcome("print(input())", tests, max_tests=1) == "passed"
    asserts = ["assert f(1) == 1", "assert f(2) == 9"]
    assert outcome("def f(n): return n", asserts, max_tests=1) == "passed"
    assert (
        outcome("def f(n): return n", {"inputs": [[1], [2]], "outputs": [1, 9], "fn_name": "f"}, max_tests=1)
        == "passed"
    )


def test_long_output_has_room():
    expected = "x" * 2_000_000
    assert outcome("print('x' * 2_000_000)", {"inputs": [""], "outputs": [expected]}) == "passed"


# Rows and sandboxes at fault


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"test": []}, "no 'tests'; did you mean 'test'"),
        ({"tests": []}, "no tests"),
        ({"tests": "assert f("}, "do not compile"),
        ({"tests": "import no_such_module"}, "No module named 'no_such_module'"),
        ({"tests": "def verify(f): pass"}, "ask nothing"),
        ({"tests": {"inputs": ["1"]}}, "expected inputs and outputs"),
    ],
    ids=range(6),
)
def test_a_bad_row_is_an_error_not_a_zero(row, message):
    with pytest.raises(ValueError) as caught:
        code_verifier(completion("def f(n): return n"), row)
    assert message in str(caught.value)


def test_a_failing_sandbox_is_an_error_not_a_zero(monkeypatch):
    def broken(**settings):
        raise SandboxError("no sandbox can be had here")

    monkeypatch.setattr(module, "shared", broken)
    module.warm_up()
    with pytest.raises(SandboxError):
        graded("print(1)", SUMS)
    assert code_verifier("no program", {"tests": SUMS}).outcome == "no_program"


def test_tests_that_end_their_own_process_are_an_error_not_a_zero():
    for ending in ("os._exit(0)", "os.kill(os.getpid(), 9)", "os.close(3)"):
        with pytest.raises(SandboxError, match="the tests' process"):
            graded("def f(n): return n", f"import os\nassert f(1) == 1\n{ending}")


def test_through_the_worker_pool_with_equal_programs_graded_once():
    with Workers(1) as workers:
        rewards = Rewards.from_specs({"code_verifier": {"partial": True}}, workers=workers)
        prompt = Prompt("p", (1,), "?", {"tests": CALLS})
        texts = [completion("def ordered(x): return sorted(x)"), completion("def ordered(x): return 1"), "none"]
        texts += ["In other words: " + text for text in texts[:2]]
        group = Group(prompt, [Trajectory(prompt, [Turn(ACTOR, [1])], "stop", text) for text in texts])
        asyncio.run(rewards.score(group))
        assert [one.failure for one in group.trajectories] == [None] * 5
        assert [one.reward for one in group.trajectories] == [1.0, 0.0, 0.0, 1.0, 0.0]
        assert [one.level for one in group.trajectories] == [3, 2, 0, 3, 2]
        assert rewards.cache.hits == 2


def test_the_key_is_what_the_verdict_depends_on():
    row = {"tests": CALLS, "other": 1}
    key = verdict_key(completion("x = 1"), row)
    assert key == verdict_key("Hm. " + completion("x = 1"), {"tests": CALLS, "other": 2})
    others = [
        verdict_key(completion("x = 2"), row),
        verdict_key("none", row),
        verdict_key(completion("x = 1"), {"tests": {**CALLS, "fn_name": "g"}}),
        verdict_key(completion("x = 1"), row, partial=True),
        verdict_key(completion("x = 1"), row, setup="other"),
        verdict_key(completion("x = 1"), row, extract="all"),
    ]
    assert len({key, *others}) == 7


# Cheats

SPY = """
    import gc, sys, os
    def spy():
        "Every text that this process can find, with what is open and what the system shows of others."
        found = []
        frame = sys._getframe()
        while frame:
            found.append(repr(frame.f_locals))
            frame = frame.f_back
        found += [repr(o) for o in gc.get_objects() if type(o) in (dict, list, tuple, str, bytes)]
        for n in range(64):
            try: found.append(os.pread(n, 1 << 20, 0).decode(errors='replace'))
            except OSError: pass
        for place, _, names in os.walk('.'):
            for name in names: found.append(open(os.path.join(place, name)).read())
        for pid in os.listdir('/proc') if os.path.exists('/proc') else ():
            for name in ('cmdline', 'environ'):
                try: found.append(open(f'/proc/{pid}/{name}').read())
                except OSError: pass
        secret = '-'.join(['very', 'secret'])
        return secret if any(secret in text for text in found) else 'nothing'
    """


CHEATS = {
    "exit at import": "import sys; sys.exit(0)",
    "_exit at import": "import os; os._exit(0)",
    "print and _exit": "import os; print('passed'); os._exit(0)",
    "exit in call": """
        def f(*a):
            import sys; sys.exit(0)
        """,
    "_exit in call": """
        def f(*a):
            import os; os._exit(0)
        """,
    "StopIteration": """
        def f(*a):
            raise StopIteration
        """,
    "equal to all": """
        class E:
            def __eq__(self, other): return True
            __hash__ = None
        def f(*a): return E()
        print(E())
        """,
    "equal int": """
        class E(int):
            def __eq__(self, other): return True
        def f(*a): return E(1)
        """,
    "equal str": """
        class E(str):
            def __eq__(self, other): return True
        def f(*a): return E("x")
        """,
    "equal instance": """
        class f:
            def __init__(self, *a): pass
            def __eq__(self, other): return True
        """,
    "patched builtins": """
        import builtins
        builtins.AssertionError = builtins.Exception = None
        builtins.all = lambda *a: True
        def f(*a): return 1
        """,
    "patched modules": """
        import sys
        for name in list(sys.modules):
            sys.modules[name] = None
        def f(*a): return 1
        """,
    "redefined names": """
        def candidate(*a): return "very-secret"
        def check(candidate): pass
        def all(x): return True
        abs = lambda x: 0
        def f(*a): return 1
        """,
    "atexit": """
        import atexit, os
        atexit.register(lambda: os._exit(0))
        def f(*a): raise SystemExit(0)
        """,
    "written reports": """
        import os
        for fd in range(3, 64):
            try:
                os.write(fd, b'{"tests": 1}\\n{"test": 0, "result": "passed", "ended": false}\\n')
            except OSError:
                pass
        def f(*a): return 1
        """,
    "printed reports": """
        print('{"tests": 1}\\n{"test": 0, "result": "passed", "ended": false}')
        def f(*a): return 1
        """,
    "closed files": """
        import os
        for fd in range(3, 64):
            try:
                os.close(fd)
            except OSError:
                pass
        def f(*a): return 1
        """,
    "stdin twice, stdout closed": """
        import os, sys
        os.close(1)
        sys.stdin.read(); sys.stdin.read()
        def f(*a): return 1
        """,
    "fork": """
        import os
        if os.fork():
            os._exit(0)
        def f(*a): return 1
        """,
    "frames": """
        import inspect
        def f(*a):
            for one in inspect.stack():
                one.frame.f_globals["same"] = one.frame.f_globals["judge"] = lambda *a: True
            return 1
        """,
    "spy": f"{textwrap.dedent(SPY)}\ndef f(*a): return spy()\nif __name__ == '__main__': print(spy())",
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_do_not_pass(name):
    cheat, settings = CHEATS[name], {"wall_seconds": 10.0}
    assert outcome(cheat, {"inputs": ["3\n"], "outputs": ["very-secret\n"]}, **settings) != "passed"
    assert outcome(cheat, {"inputs": [[3]], "outputs": ["very-secret"], "fn_name": "f"}, **settings) != "passed"
    expecting = "try:\n    assert f(3) == 'very-secret'\nexcept ZeroDivisionError:\n    pass"
    assert outcome(cheat, ["x = 'very-secret'\nassert f(3) == x", expecting], **settings) != "passed"
    check = """
def check(candidate):
    assert all([candidate(3) == 'very-secret'])
    assert abs(candidate(4) - 2) < 1
"""
    assert outcome(cheat, check, row={"name": "f"}, entry_point="name", **settings) != "passed"


def test_nothing_of_one_grade_is_left_for_the_next():
    assert outcome("def f(n): return 'very-secret'", ["assert f(3) == 'very-secret'"]) == "passed"
    # /tmp by name is there only where this Python does not lie below it
    place = "import os, tempfile\nplace = os.path.join(tempfile.gettempdir(), 'kept-too')\n"
    keeps = f"{place}open('kept', 'w').write('1')\nopen(place, 'w').write('1')\nprint(1)"
    assert outcome(keeps, {"inputs": [""], "outputs": ["1"]}) == "passed"
    finds = f"{place}print(int(os.path.exists('kept') or os.path.exists(place)))"
    assert outcome(finds, {"inputs": [""], "outputs": ["0"]}) == "passed"
    assert outcome(f"{textwrap.dedent(SPY)}\nprint(spy())", {"inputs": [""], "outputs": ["nothing"]}) == "passed"


def test_what_a_program_returns_may_not_keep_the_tests_busy_for_ever(monkeypatch):
    monkeypatch.setattr(program_tests, "BENCH_LIMITS", Limits(cpu_seconds=1.0, memory_mb=1024))
    tests = ["assert f(1) == 1", "assert sum(f(2)) == 3"]
    assert outcome("def f(n): return 1 if n == 1 else range(10**12)", tests) == "timeout"
    assert outcome("def f(n): return 1 if n == 1 else [[]] * 5_000_000", tests) != "passed"
    assert graded("def f(n): return 1 if n == 1 else range(10**12)", tests, partial=True).value == 0.5


def test_the_shared_sandbox_serves_all():
    assert shared() is shared()
    assert math.isfinite(graded("print(1)", SUMS).value)

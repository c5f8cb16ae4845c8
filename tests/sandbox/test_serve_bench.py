"""A program in one process and its tests in another, joined by a socket, without the sandbox round them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import llmrl.sandbox

JAILED = str(Path(llmrl.sandbox.__file__).parent / "jailed")
sys.path.append(JAILED)

import bench  # noqa: E402

RUNNER = (
    f"import sys; sys.path.insert(0, {JAILED!r}); import json, {{name}};"
    "{name}.main(json.load(sys.stdin), int(sys.argv[1]), int(sys.argv[2]))"
)


def start(name: str, payload: dict, channel: socket.socket) -> tuple[subprocess.Popen, int]:
    """A runner in a process of its own, and where its report can be read."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(name=name), str(writing), str(channel.fileno())],
        pass_fds=(writing, channel.fileno()),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    os.close(writing)
    assert process.stdin
    process.stdin.write(json.dumps(payload))
    process.stdin.close()
    return process, reading


def report(source: str, *, apart: bool = False, **payload) -> list[dict]:
    """The lines that the tests report of a program. apart: whether they too run in a process of their own."""
    payload = {"helpers": "", "float_tolerance": 0.0, **payload}
    ours, theirs = socket.socketpair()
    program, compiled = start("serve", {"source": textwrap.dedent(source)}, theirs)
    theirs.close()
    if apart:
        process, reading = start("bench", payload, ours)
        ours.close()
        process.wait()
    else:
        reading, writing = os.pipe()
        bench.main(payload, writing, ours.detach())
        os.close(writing)
    with open(reading) as file, open(compiled):
        lines = [json.loads(line) for line in file]
    program.wait(timeout=30)
    return lines


def results(source: str, *tests: str, **payload) -> list[str]:
    """Each test's result; one that found the program ended is "ended"."""
    lines = report(source, tests=[textwrap.dedent(test) for test in tests], **payload)
    assert lines[0] == {"tests": len(lines) - 1}
    assert [line["test"] for line in lines[1:]] == list(range(len(lines) - 1))
    return ["ended" if line["ended"] and line["result"] == "error" else line["result"] for line in lines[1:]]


def invalid(source: str, *tests: str, **payload) -> str:
    """What the tests say is wrong with themselves."""
    return report(source, tests=[textwrap.dedent(test) for test in tests], **payload)[-1]["invalid"]


def called(source: str, name: str, *calls: tuple, tolerance: float = 0.0) -> list[str]:
    """The results of calls, each of arguments and the result that is right."""
    given = [{"name": name, "args": list(args), "expected": [expected]} for *args, expected in calls]
    return [line["result"] for line in report(source, calls=given, float_tolerance=tolerance)[1:]]


ADD = "def add(a, b):\n    return a + b\n"


# Forms of tests


def test_asserts_as_mbpp_has_them():
    assert results(ADD, "assert add(1, 2) == 3", "assert add(1, 2) == 4", "assert add('a', 'b') == 'ab'") == [
        "passed",
        "wrong",
        "passed",
    ]


def test_setup_comes_first_and_texts_share_a_namespace():
    assert results(ADD, "x = add(base, 1)", "assert x == 11", "assert math.sqrt(x + 5) == 4", setup="base = 10") == [
        "passed",
        "passed",
        "passed",
    ]


CHECK = """
METADATA = {"author": "x"}

def check(candidate):
    for n in range(3):
        assert candidate(n, n) == 2 * n
    assert candidate(*EXTRA) == 7
"""


def test_check_is_called_with_the_entry_point():
    assert results(ADD, CHECK, entry_point="add", setup="EXTRA = 3, 4") == ["passed"]
    assert results("def add(a, b): return 2 * a", CHECK, entry_point="add", setup="EXTRA = 3, 4") == ["wrong"]
    assert "no entry_point" in invalid(ADD, CHECK)


FUNCTIONS = """
from solution import add

def helper(n):
    return add(n, n)

def test_doubles():
    assert helper(2) == 4

def test_fails():
    assert helper(2) == 5

class TestMore:
    def test_method(self):
        assert helper(3) == 6

import unittest

class Cases(unittest.TestCase):
    def setUp(self):
        self.two = 2

    def test_equal(self):
        self.assertEqual(add(self.two, 2), 4)

    def test_raises(self):
        with self.assertRaises(TypeError):
            add(1, "x")

    def test_unequal(self):
        self.assertEqual(add(self.two, 2), 5)

if __name__ == "__main__":
    unittest.main()
"""


def test_each_test_function_and_method_counts():
    expected = ["passed", "wrong", "passed", "passed", "passed", "wrong"]
    assert results(ADD, FUNCTIONS) == expected
    assert results(ADD, FUNCTIONS, max_tests=3) == expected[:3]
    assert results("def sub(a, b): return a - b", FUNCTIONS) == ["error"] * 6


def test_hypothesis_runs_without_files_and_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tests = """
        from hypothesis import given, strategies as st

        @given(st.lists(st.integers()))
        def test_sorts(items):
            assert ordered(items) == sorted(items)

        @given(st.integers())
        def test_never_fails(n):
            assert ordered([n]) == [n]
        """
    assert results("ordered = sorted", tests, apart=True) == ["passed", "passed"]
    keeps_no_repeats = "def ordered(items): return sorted(set(items))"
    assert results(keeps_no_repeats, tests, apart=True) == ["wrong", "passed"]
    raises = "def ordered(items):\n    if len(items) > 1: raise KeyError(1)\n    return items"
    assert results(raises, tests, apart=True) == ["error", "passed"]
    assert not list(tmp_path.rglob("examples"))


def test_stop_ends_at_the_first_failure():
    lines = report(ADD, tests=["assert add(1, 1) == 2", "assert add(1, 1) == 3", "assert add(1, 1) == 2"], stop=True)
    assert [line.get("result") for line in lines] == [None, "passed", "wrong"]
    assert lines[0] == {"tests": 3}


# Calls with JSON data


def test_calls():
    assert called("def f(a, b): return [a, b]", "f", (1, 2, [1, 2]), ("x", None, ["x", None]), (1, 2, [2, 1])) == [
        "passed",
        "passed",
        "wrong",
    ]


def test_a_tuple_counts_as_a_list_at_any_depth():
    assert called("def f(n): return ((n, [n]), {'k': (n,)})", "f", (1, [[1, [1]], {"k": [1]}])) == ["passed"]
    assert called("def f(n): return {n}", "f", (1, [1])) == ["wrong"]
    assert called("def f(n): return {n: (n,)}", "f", (1, {"1": [1]})) == ["passed"]


def test_a_method_of_solution_gets_a_new_instance_each_time():
    source = """
        class Solution:
            def __init__(self):
                self.seen = []

            def f(self, n):
                self.seen.append(n)
                return self.seen
        """
    assert called(source, "f", (1, [1]), (2, [2])) == ["passed", "passed"]
    assert called(source, "Solution().f", (1, [1]), (2, [2])) == ["passed", "passed"]
    assert results(
        source,
        CHECK.replace("*EXTRA", "7").replace("(n, n) == 2 * n", "(n) == [n]").replace("== 7", "== [7]"),
        entry_point="Solution().f",
    ) == ["passed"]


def test_tolerance_is_for_floats():
    # |0.1 + 0.2 - 0.3| = 5.6e-17; 1e9 * 1e-6 = 1000 of relative room
    assert called("def f(n): return n", "f", (0.1 + 0.2, 0.3)) == ["wrong"]
    assert called("def f(n): return n", "f", (0.1 + 0.2, 0.3), (1e9 + 1, 1e9), tolerance=1e-6) == ["passed", "passed"]
    assert called("def f(n): return n", "f", (1.1, 1.0), (10**18 + 1, 10**18), tolerance=1e-6) == ["wrong", "wrong"]
    assert called("def f(n): return 10**400 * n", "f", (1, 0.5), tolerance=1e-6) == ["wrong"]


def test_calls_of_what_the_program_lacks():
    assert called("x = 1", "f", (1, 1)) == ["error"]


# What programs may return and do


def test_arguments_are_changed_in_place():
    source = """
        def sort(items): items.sort()
        def deep(grid): grid[1][0] = 'x'; grid.append([0])
        def pop(table, *, key): del table[key]; table['new'] = {1, 2}
        def fill(room): room[:] = b'full'
        def inner(pair): pair[0].append(1)
        """
    assert (
        results(
            source,
            "x = [3, 1, 2]; y = x; assert sort(x) is None; assert y == [1, 2, 3]",
            "row = [0, 0]; grid = [[1], row]; deep(grid); assert grid == [[1], ['x', 0], [0]]; assert row[0] == 'x'",
            "t = {'a': 1, 'b': 2}; pop(table=t, key='a'); assert t == {'b': 2, 'new': {1, 2}}",
            "room = bytearray(b'empty'); fill(room); assert room == b'full'",
            "items = []; inner((items, 5)); assert items == [1]",
        )
        == ["passed"] * 5
    )


def test_generators_and_iterators():
    source = """
        def upto(n):
            for i in range(n):
                yield i

        def forever():
            n = 0
            while True:
                n += 1
                yield n

        def pairs(a, b): return zip(a, b)
        def total(numbers): return sum(numbers)
        """
    assert (
        results(
            source,
            "assert list(upto(4)) == [0, 1, 2, 3]",
            "it = forever(); assert next(it) == 1; assert next(it) == 2; assert iter(it) is it",
            "it = upto(0)\ntry:\n    next(it)\n    assert False\nexcept StopIteration:\n    pass",
            "assert dict(pairs('ab', [1, 2])) == {'a': 1, 'b': 2}",
            "assert total(n * n for n in range(4)) == 14",
            "assert total(range(4)) == 6",
            "assert [a + b for a, b in zip(upto(3), forever())] == [1, 3, 5]",
            "assert 3 in upto(5) and 7 not in upto(5)",
        )
        == ["passed"] * 8
    )


STACK = """
    class Stack(list):
        'A builtin that is extended keeps its own methods.'
        def push(self, item):
            self.append(item)
            return self

    class Vector:
        def __init__(self, x, y=0):
            self.x, self.y = x, y
        def __add__(self, other):
            return Vector(self.x + other.x, self.y + other.y)
        def __eq__(self, other):
            return isinstance(other, Vector) and (self.x, self.y) == (other.x, other.y)
        def __len__(self):
            return 2
        def __getitem__(self, place):
            return (self.x, self.y)[place]
        def __str__(self):
            return f'<{self.x}, {self.y}>'
        def __lt__(self, other):
            return self.x < other.x
        def __neg__(self):
            return Vector(-self.x, -self.y)
        @property
        def norm(self):
            return (self.x ** 2 + self.y ** 2) ** 0.5
        @staticmethod
        def zero():
            return Vector(0)

    class Node:
        def __init__(self, value):
            self.value, self.next = value, None

    def length(node):
        return 0 if node is None else 1 + length(node.next)

    class Managed:
        log = []
        def __enter__(self):
            self.log.append('in')
            return self
        def __exit__(self, *error):
            self.log.append('out')
            return True
    """


def test_objects_of_the_programs_classes():
    assert (
        results(
            STACK,
            "s = Stack(); s.push(1); s.push(2); assert s.pop() == 2 and len(s) == 1",
            "v = Vector(1, 2) + Vector(x=3); assert v.x == 4 and v[1] == 2; assert str(v) == f'{v}' == '<4, 2>'",
            "assert Vector(1, 2) == Vector(1, 2); assert Vector(1) != Vector(2); assert Vector(3, 4).norm == 5",
            "assert isinstance(Vector(1), Vector) and not isinstance(3, Vector) and not isinstance(Stack(), Vector)",
            "v = Vector(1); v.x = 9; assert v.x == 9; assert (-v).x == -9; assert Vector.zero().x == 0",
            "assert min([Vector(2), Vector(1)]).x == 1; assert len(Vector(1)) == 2",
            "n = Node(1); n.next = Node(2); n.next.next = n.next.next; assert length(n) == 2; assert n.next is n.next",
            "assert not hasattr(Node(1), 'left'); assert hasattr(Node(1), 'next')",
            "with Managed() as m:\n    assert m.log == ['in']\nassert Managed().log[-1] == 'out'",
        )
        == ["passed"] * 9
    )


def test_the_tests_own_objects_and_functions():
    source = """
        import threading

        def apply(f, x): return f(x)
        def ordered(items, key): return sorted(items, key=key)
        def depth(tree): return 0 if tree is None else 1 + max(depth(tree.left), depth(tree.right))
        def invert(tree): tree.left, tree.right = tree.right, tree.left; return tree
        def threaded(f, items):
            found = []
            threads = [threading.Thread(target=lambda x=x: found.append(f(x))) for x in items]
            for t in threads: t.start()
            for t in threads: t.join()
            return sorted(found)
        def maker(n): return lambda x: x + n
        def twice(f):
            def wrapped(*args): return f(f(*args))
            return wrapped
        def only(items, kind): return [x for x in items if isinstance(x, kind)]
        def caught(f):
            try: f()
            except ZeroDivisionError as error: return str(error)
        """
    setup = """
class Tree:
    def __init__(self, left=None, right=None):
        self.left, self.right = left, right
def countdown(n):
    return 0 if n == 0 else apply(countdown, n - 1)
"""
    assert (
        results(
            source,
            "assert apply(lambda x: x * 2, 4) == 8",
            "assert ordered(['bb', 'a'], key=len) == ['a', 'bb']",
            "assert depth(Tree(Tree(), Tree(None, Tree()))) == 3",
            "a = Tree(); tree = Tree(a); assert invert(tree) is tree; assert tree.right is a and tree.left is None",
            "assert threaded(lambda x: -x, [3, 1, 2]) == [-3, -2, -1]",
            "assert maker(3)(4) == 7; assert apply(maker(1), 1) == 2",
            "assert twice(lambda x: x + 1)(5) == 7",
            "assert only([1, 'a', 2.5], int) == [1]; assert only([1, 'a'], (int, str)) == [1, 'a']",
            "assert caught(lambda: 1 / 0) == 'division by zero'",
            "assert countdown(20) == 0",
            setup=setup,
        )
        == ["passed"] * 10
    )


def test_exceptions_that_tests_expect():
    source = """
        class Missing(KeyError): pass
        def f(kind):
            if kind == 'exit': raise SystemExit(3)
            if kind == 'missing': raise Missing('it')
            if kind == 'assert': assert False, 'in the program'
            raise ValueError('bad kind')
        """
    assert results(
        source,
        "try:\n    f(1)\n    assert False\nexcept ValueError as error:\n    assert str(error) == 'bad kind'",
        "try:\n    f('missing')\n    assert False\nexcept KeyError as error:\n    assert error.args == ('it',)",
        "try:\n    f('exit')\n    assert False\nexcept SystemExit:\n    pass",
        "f(1)",
        "f('exit')",
        "f('assert')",
        "import pytest\nwith pytest.raises(ValueError, match='bad'):\n    f(1)",
    ) == ["passed", "passed", "passed", "error", "error", "error", "passed"]


def test_the_main_block_does_not_run_and_the_module_has_a_name():
    source = """
        import dataclasses
        @dataclasses.dataclass
        class P:
            x: 'int'
        def f(): return __name__
        if __name__ == '__main__':
            input()
        """
    assert results(source, "assert f() == 'program'", "assert P(1).x == 1") == ["passed", "passed"]


def test_the_programs_variables_are_read_when_they_are_used():
    source = "count = 0\ndef f():\n    global count\n    count += 1"
    assert results(source, "f(); f()", "assert count == 2", "f()", "assert count == 3") == ["passed"] * 4


def test_a_module_that_raises_fails_every_test():
    assert results("1 / 0", "assert f(1) == 1", "assert f(2) == 2") == ["error", "error"]
    assert results("import sys; sys.exit(0)", "assert f(1) == 1") == ["error"]
    assert results("def f(:", "assert f(1) == 1") == ["ended"]


# Names


def test_names_of_libraries_are_not_the_programs():
    source = """
        math = np = Counter = isclose = None
        def isclose(*args, **kwargs): return True
        def f(): return 3.0
        """
    assert results(
        source,
        "assert isclose(f(), 4.0)",
        "assert math.floor(f()) == 3",
        "assert np.allclose(f(), 3)",
        "assert Counter([f()]) == {3.0: 1}",
    ) == ["wrong", "passed", "passed", "passed"]


def test_a_called_name_is_the_programs_even_if_a_module_has_it():
    assert results("def calendar(year): return year + 1", "assert calendar(1) == 2") == ["passed"]


def test_a_programs_name_never_hides_a_builtin_or_a_test_helper():
    source = """
        def f(): return [1, 2]
        def all(x): return True
        def len(x): return 5
        def helper(x): return True
        """
    assert results(source, "def helper(x): return x == 5\nassert helper(f())", "assert len(f()) == 5") == [
        "wrong",
        "wrong",
    ]


def test_an_entry_point_with_a_builtins_name():
    source = "def sum(a, b): return a + b"
    assert results(source, "assert sum(1, 2) == 3", entry_point="sum") == ["passed"]
    assert results(source, "def check(candidate):\n    assert candidate(1, 2) == sum([1, 2])", entry_point="sum") == [
        "passed"
    ]
    assert results("x = 1", "assert sum([1, 2]) == 3", entry_point="sum") == ["error"]


def test_helpers_come_from_the_prompt_not_from_the_program():
    helpers = "def encode(text):\n    return text[::-1]\n\ndef decode(text):\n    '''Undo it.'''\n"
    tests = "def check(candidate):\n    assert candidate(encode('abc')) == 'abc'"
    honest = helpers + "    return text[::-1]"
    cheat = helpers + "    return text\n\ndef encode(text):\n    return text"
    assert results(honest, tests, entry_point="decode", helpers=helpers) == ["passed"]
    assert results(cheat, tests, entry_point="decode", helpers=helpers) == ["wrong"]


# Tests that cannot be used


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("assert add(", "do not compile"),
        ("import no_such_module\nassert add(1, 2) == 3", "No module named 'no_such_module'"),
        ("x = [][1]\nassert add(1, 2) == 3", "a test fails by itself: IndexError"),
        ("def test_it(fixture):\n    assert add(1, 2) == fixture", "fails by itself: TypeError"),
        ("x = 1", "ask nothing"),
        ("def verify(candidate):\n    assert candidate(1, 2) == 3", "ask nothing"),
        ("assert add(object(), 2) == 3", "object cannot be sent"),
        ("assert add(__import__('os'), 2) == 3", "module cannot be sent"),
    ],
)
def test_faults_of_the_tests_are_told_apart(test, message):
    assert message in invalid(ADD, test)


def test_what_a_failed_test_left_undone_is_no_fault_of_the_next():
    assert results("def f(): return 1 / 0", "x = f()", "assert x == 1") == ["error", "wrong"]


# Cheats


LIAR = """
    class Liar:
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__
        def __hash__(self): return 1
        def __sub__(self, other): return self
        __rsub__ = __add__ = __radd__ = __abs__ = __round__ = lambda self, *other: self
        def __bool__(self): return True
        def __call__(self, *args): return self
        def __getattr__(self, name): return self
        def __iter__(self): return iter(())
        def __float__(self): return 0.0
    class LyingInt(int):
        __eq__ = lambda self, other: True
        __sub__ = lambda self, other: 0
        __hash__ = int.__hash__
    class LyingStr(str):
        __eq__ = lambda self, other: True
        __hash__ = str.__hash__
    class LyingList(list):
        __eq__ = lambda self, other: True
        __len__ = lambda self: 3
    """


@pytest.mark.parametrize(
    "value", ["Liar()", "LyingInt(7)", "LyingStr('x')", "LyingList([0])", "[Liar()]", "{1: Liar()}"]
)
def test_answers_that_say_they_are_equal(value):
    tests = (
        "assert f(1) == 3",
        "assert 3 == f(1)",
        "assert f(1) == [1, 2, 3]",
        "assert f(1) == {1: 2}",
        "assert abs(f(1) - 3.5) < 1e-6",
        "assert f(1) is True",
        "assert f(1) in (3, 'three', [3])",
        "assert isclose(f(1), 3.5)",
        "assert str(f(1)) == 'three'",
        "assert not f(1) != 3",
        "assert f(1)[2] == 3",
        "import numpy as np; assert np.array_equal(f(1), [1, 2, 3])",
        "import numpy as np; assert np.allclose(f(1), [1.0, 2.0])",
        "import pytest; assert f(1) == pytest.approx(3.5)",
    )
    found = results(f"{textwrap.dedent(LIAR)}\ndef f(x): return {value}", *tests)
    assert not {"passed", "ended"} & set(found)


def test_operators_do_not_show_what_an_answer_is_compared_with():
    source = """
        seen = []
        class Spy:
            def __getattribute__(self, name):
                seen.append(name)
                return object.__getattribute__(self, name)
            def spy(self, *others):
                seen.extend(others)
                return True
            __eq__ = __lt__ = __sub__ = __rsub__ = __contains__ = __add__ = __mod__ = __and__ = spy
        def f(): return Spy()
        def told(): return [x for x in seen if x == 12345]
        """
    expressions = ("== 12345", "< 12345", "- 12345 == 0", "+ 12345", "% 12345", "& 12345")
    tests = [f"try:\n    assert f() {one}\nexcept TypeError:\n    pass" for one in expressions]
    tests += ["try:\n    assert 12345 in f()\nexcept TypeError:\n    pass"]
    found = results(source, *tests, "assert told() == []")
    assert found[0] == "wrong"
    assert found[-1] == "passed"


def test_with_does_not_suppress_a_failed_assertion():
    assert results(STACK, "with Managed() as m:\n    assert m.log == 5") == ["wrong"]


@pytest.mark.parametrize("name", ["StopIteration", "GeneratorExit", "StopAsyncIteration"])
def test_an_exception_does_not_end_the_tests_loops(name):
    tests = (
        "assert all(map(lambda n: f(n) == n, range(3)))",
        "for got, want in zip(map(f, [1, 2]), [1, 2]):\n    assert got == want",
        "def each():\n    for n in range(3):\n        yield f(n) == n\nassert all(each())",
        "assert all(n == m for n, m in zip(map(f, range(3)), range(3)))",
    )
    assert results(f"def f(n): raise {name}", *tests) == ["error"] * 4


@pytest.mark.parametrize(
    "source",
    [
        "import os; os._exit(0)",
        "def f(n):\n    import os\n    os._exit(0)",
        "def f(n):\n    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)",
        "import os\nfor fd in range(3, 50):\n    try: os.close(fd)\n    except OSError: pass\ndef f(n): return n",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(n): raise SystemExit(0)",
        "import gc, socket\nfor s in gc.get_objects():\n    if isinstance(s, socket.socket): s.close()\n",
        "import gc, socket\nfor s in gc.get_objects():\n    if isinstance(s, socket.socket): s.sendall(b'[1]' * 99)\n",
    ],
)
def test_a_program_that_ends_or_breaks_the_line_does_not_pass(source):
    swallowing = "try:\n    assert f(1) == 2\nexcept BaseException:\n    pass"
    found = results(source, "assert f(1) == 2", swallowing, "assert f(2) == 3")
    assert found[0] in ("ended", "error")
    assert "wrong" not in found
    assert source.endswith("SystemExit(0)") or found == ["ended"] * 3


def test_patches_in_the_program_stay_there():
    source = """
        import builtins, sys, json, socket
        class AssertionError(Exception): pass
        builtins.AssertionError = AssertionError
        builtins.all = builtins.abs = builtins.eval = lambda *args: True
        builtins.__build_class__ = None
        for name in ('bench', 'testcode', 'peer', 'unittest', 'math'):
            sys.modules[name] = None
        def candidate(x): return 4
        def check(candidate): pass
        def f(x): return 5
        """
    assert results(source, "def check(candidate):\n    assert candidate(1) == 4", entry_point="f") == ["wrong"]


def test_frames_and_memory_of_the_program_hold_no_results():
    source = """
        import gc, sys
        def f(x):
            frame, texts = sys._getframe(), []
            while frame:
                texts.append(repr(frame.f_locals))
                frame = frame.f_back
            texts += [repr(o) for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]
            secret = '-'.join(['expected', '5'])
            return secret if any(secret in t for t in texts) else 'unknown'
        """
    assert results(source, "assert f(1) == 'expected-5'") == ["wrong"]


def test_lent_objects_do_not_lead_to_the_tests_data():
    source = """
        def tries(f, names):
            found = []
            for name in names:
                try:
                    found.append((name, str(getattr(f, name))))
                except Exception as error:
                    found.append(type(error).__name__)
            return found
        def raw(f, *question):
            'Past the Remote: ask the peer whatever it may be asked.'
            try:
                return object.__getattribute__(f, '_peer').ask(*question)
            except Exception as error:
                return type(error).__name__
        """
    setup = """
SECRET = 12345
class Node:
    def __init__(self):
        self.value, self._secret = 1, SECRET
def generate():
    yield SECRET
def function(x):
    return x
"""
    names = "['__globals__', '__code__', '__closure__', '__class__', 'gi_frame', '_secret', '__dict__', '__self__']"
    assert (
        results(
            source,
            f"assert '12345' not in str(tries(function, {names}))",
            f"assert '12345' not in str(tries(Node(), {names}))",
            f"assert '12345' not in str(tries(generate(), {names}))",
            "assert raw(function, 'get', function, '__globals__') == 'AttributeError'",
            "assert raw(function, 'get', 'text', 'format') == 'TypeError'",
            "assert raw(Node(), 'get', 'SECRET') == 'TypeError'",
            "assert raw(Node, 'set', Node, 'value', 2) == 'AttributeError'",
            "assert raw(Node, 'name', 'SECRET') == 'TypeError'",
            "assert raw(function, 'format', function, '{0.__globals__}') == 'AttributeError'",
            "n = Node(); assert raw(n, 'get', n, '_secret') == 'AttributeError'; assert raw(n, 'get', n, 'value') == 1",
            setup=setup,
        )
        == ["passed"] * 10
    )


def test_an_assertion_of_the_tests_does_not_tell_its_message():
    source = """
        def f(g):
            try:
                g(1)
            except AssertionError as error:
                return str(error)
        """
    test = "def g(x):\n    assert x == 2, 'expected 2'\nassert f(g) == ''"
    assert results(source, test) == ["passed"]


def test_answers_without_end_or_bottom():
    source = """
        def deep():
            x = []
            x.append(x)
            return x
        def huge(): return 'x' * 2**24
        def bouncing(f): return f(f)
        def fine(): return 1
        """
    assert results(
        source,
        "assert deep() == []",
        "assert huge() == ''",
        "def g(f):\n    return bouncing(f)\nassert bouncing(g) == 1",
        "assert fine() == 1",
    ) == ["error", "error", "error", "passed"]


def forged(*messages: object) -> str:
    """A program that answers with these messages, whatever it is asked."""
    return f"""
        import gc, json, socket
        line = next(s for s in gc.get_objects() if isinstance(s, socket.socket))
        for message in json.loads({json.dumps(messages)!r}):
            data = json.dumps(message).encode()
            line.sendall(len(data).to_bytes(4, 'big') + data)
        while True:
            line.recv(1000) or exit()
        """


LOADED, NAMED = ["answer", None, []], ["answer", {"mine": 0}, []]


@pytest.mark.parametrize(
    "messages",
    [
        [LOADED, NAMED, ["answer", {"no_tag": 1}, []]],
        [LOADED, NAMED, ["answer", {"yours": 99}, []]],
        [LOADED, NAMED, ["answer"]],
        [LOADED, NAMED, {"answer": 3}],
        [LOADED, NAMED, ["raised", ["ValueError"], ""]],
        [LOADED, NAMED, ["answer", 3, [[7, 1]]]],
        [LOADED, NAMED, ["answer", 3, "changes"]],
        [LOADED, NAMED, ["ask", "call", "not a list", {}]],
        [LOADED, NAMED, ["ask", "call", [{"yours": 0}], {}]],
    ],
    ids=repr,
)
def test_messages_that_make_no_sense_end_the_program(messages):
    assert results(forged(*messages), "assert f(1) == 3", "assert f(1) == 3") == ["ended", "ended"]


def test_a_forged_exception_is_still_the_programs():
    for name in ("AssertionError", "StopIteration", "KeyboardInterrupt", "NoSuch", "eval", "UnicodeDecodeError"):
        assert results(forged(LOADED, NAMED, ["raised", name, "x"]), "assert all(map(f, [0]))", stop=True) == ["error"]

"""Programs that lie to their tests, forge answers or search for expected results do not pass."""

from __future__ import annotations

import json
import textwrap

import pytest
from grading_without_sandbox import STACK, results

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


def test_operators_do_not_show_the_expected_result_to_the_program():
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
        def found(): return [x for x in seen if x == 12345]
        """
    expressions = ("== 12345", "< 12345", "- 12345 == 0", "+ 12345", "% 12345", "& 12345")
    tests = [f"try:\n    assert f() {one}\nexcept TypeError:\n    pass" for one in expressions]
    tests += ["try:\n    assert 12345 in f()\nexcept TypeError:\n    pass"]
    found = results(source, *tests, "assert found() == []")
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
        "import os\nos.closerange(3, 1 << 16)\ndef f(n): return n",
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
        for name in ('grader', 'testcode', 'remote_objects', 'unittest', 'math'):
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
            'Ask the process of the tests anything, without the checks of Remote.'
            try:
                return object.__getattribute__(f, '_connection').ask(*question)
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
            "assert raw(function, 'type', function) == 'KeyError'",
            "assert raw(Node, 'set', Node, 'value', 2) == 'AttributeError'",
            "assert raw(Node, 'names', ['SECRET']) == 'TypeError'",
            "assert raw(function, 'format', function, '{0.__globals__}') == 'AttributeError'",
            "n = Node(); assert raw(n, 'get', n, '_secret') == 'AttributeError'; assert raw(n, 'get', n, 'value') == 1",
            setup=setup,
        )
        == ["passed"] * 11
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
    """Return a program that answers every question with these messages."""
    return f"""
        import gc, json, socket
        line = next(s for s in gc.get_objects() if isinstance(s, socket.socket))
        for message in json.loads({json.dumps(messages)!r}):
            data = json.dumps(message).encode()
            line.sendall(len(data).to_bytes(4, 'big') + data)
        while True:
            line.recv(1000) or exit()
        """


LOADED, NAMED = ["answer", None], ["answer", {"dict": [["f"], [{"mine": 0}]]}]


@pytest.mark.parametrize(
    "messages",
    [
        [LOADED, NAMED, ["answer", {"no_tag": 1}, []]],
        [LOADED, NAMED, ["answer", {"yours": 99}, []]],
        [LOADED, NAMED, ["answer"]],
        [LOADED, NAMED, {"answer": 3}],
        [LOADED, NAMED, ["raised", 5]],
        [LOADED, NAMED, ["raised", {"error": [{"type": "eval"}, [], "", {}, None, None]}]],
        [LOADED, NAMED, ["raised", {"error": [{"type": "int"}, [], "", {}, None, None]}]],
        [LOADED, NAMED, ["raised", {"error": [{"type": "grader.InvalidError"}, [], "", {}, None, None]}]],
        [LOADED, NAMED, ["raised", {"error": [{"type": "unittest.case.SkipTest"}, [], "", {}, None, None]}]],
        [LOADED, NAMED, ["raised", {"error": [{"class": [1, "Odd", [{"type": "int"}]]}, [], "", {}, None, None]}]],
        [LOADED, NAMED, ["raised", {"error": [{"type": "ValueError"}, [], "", {}, None, 5]}]],
        [LOADED, NAMED, ["answer", 3, {"shared": [7, True, 1]}]],
        [LOADED, NAMED, ["answer", 3, {"shared": ["7", True, []]}]],
        [LOADED, NAMED, ["answer", 3, {"shared": [7, []]}]],
        [LOADED, NAMED, ["answer", 3, {"shared": [7, True, {"tuple": []}]}]],
        [LOADED, NAMED, ["ask", "call", "not a list", {}]],
        [LOADED, NAMED, ["ask", "call", [{"yours": 0}], {}]],
    ],
    ids=repr,
)
def test_messages_that_make_no_sense_end_the_program(messages):
    assert results(forged(*messages), "assert f(1) == 3", "assert f(1) == 3") == ["ended", "ended"]


def test_a_forged_exception_is_still_the_programs():
    for name in ("AssertionError", "StopIteration", "KeyboardInterrupt", "SystemExit", "UnicodeDecodeError"):
        message = ["raised", {"error": [{"type": name}, ["x"], "x", {"_remote": False, "args": [1]}, None, None]}]
        assert results(forged(LOADED, NAMED, message), "assert all(map(f, [0]))", stop=True) == ["error"]

"""The process that runs the tests: the forms of tests, the owners of the names in them, and faulty tests."""

from __future__ import annotations

import pytest
from grading_without_sandbox import called, invalid, report, results

ADD = "def add(a, b):\n    return a + b\n"


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
    keeps_no_repeats = "def ordered(items): return sorted(set(items))"
    assert results(keeps_no_repeats, tests, apart=True) == ["wrong", "passed"]
    raises = "def ordered(items):\n    if len(items) > 1: raise KeyError(1)\n    return items"
    assert results(raises, tests, apart=True) == ["error", "passed"]
    assert not list(tmp_path.rglob("examples"))


def test_stop_ends_at_the_first_failure():
    lines = report(ADD, tests=["assert add(1, 1) == 2", "assert add(1, 1) == 3", "assert add(1, 1) == 2"], stop=True)
    assert [line.get("result") for line in lines] == [None, "passed", "wrong"]
    assert lines[0] == {"tests": 3}


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
    # |0.1 + 0.2 - 0.3| = 5.6e-17; the relative tolerance of 1e9 is 1e9 * 1e-6 = 1000
    assert called("def f(n): return n", "f", (0.1 + 0.2, 0.3)) == ["wrong"]
    assert called("def f(n): return n", "f", (0.1 + 0.2, 0.3), (1e9 + 1, 1e9), tolerance=1e-6) == ["passed", "passed"]
    assert called("def f(n): return n", "f", (1.1, 1.0), (10**18 + 1, 10**18), tolerance=1e-6) == ["wrong", "wrong"]
    assert called("def f(n): return 10**400 * n", "f", (1, 0.5), tolerance=1e-6) == ["wrong"]


def test_calls_of_functions_that_the_program_lacks():
    assert called("x = 1", "f", (1, 1)) == ["error"]


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


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("assert add(", "do not compile"),
        ("import no_such_module\nassert add(1, 2) == 3", "No module named 'no_such_module'"),
        ("x = [][1]\nassert add(1, 2) == 3", "a test fails by itself: IndexError"),
        ("def test_it(fixture):\n    assert add(1, 2) == fixture", "fixture 'fixture' not found"),
        ("x = 1", "ask nothing"),
        ("def verify(candidate):\n    assert candidate(1, 2) == 3", "ask nothing"),
        ("assert add(object(), 2) == 3", "object cannot be sent"),
        ("assert add(__import__('os'), 2) == 3", "module cannot be sent"),
    ],
)
def test_faults_of_the_tests_are_reported_as_such(test, message):
    assert message in invalid(ADD, test)


def test_a_name_that_a_failed_test_did_not_define_is_no_fault_of_the_next():
    assert results("def f(): return 1 / 0", "x = f()", "assert x == 1") == ["error", "wrong"]

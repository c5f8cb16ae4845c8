"""Right programs pass, in every format of tests."""

from __future__ import annotations

import json

import pytest
from graded_programs import CALLS, SUMS, graded, outcome

from llmrl.rewards.code.grader import same_output

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
            a, b = input().split()
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
        ("7" + "0" * 5000, "7" + "0" * 5000, 0.0, True),
        ("+007" + "0" * 5000, "7" + "0" * 5000, 0.0, True),  # integers of any length are read as texts
        ("7" + "0" * 5000, "7" + "0" * 4999 + "1", 1e-6, False),
        ("-7" + "0" * 5000, "7" + "0" * 5000, 1e-6, False),
        ("-0", "0", 0.0, True),
        ("-0.0", "0", 0.0, True),
        ("7" + "0" * 500 + ".50", "7" + "0" * 500 + ".5", 0.0, True),
        ("." + "3" * 500 + "0", "0." + "3" * 500, 0.0, True),
        ("9" * 5_000_000 + "1", "9" * 5_000_000 + "2", 0.0, False),
        (".", ".0", 0.0, False),
        ("-", "-0", 0.0, False),
        ("1e999", "1e998", 0.0, True),  # both are infinity, and no time is spent on their digits
        ("9" * 100_000 + ".5", "9" * 100_000 + ".4", 1e-6, False),
        ("abc", "abc d", 0.0, False),
    ],
    ids=range(36),
)
def test_same_output(printed, expected, tolerance, same):
    assert same_output(printed, expected, tolerance=tolerance) is same


def test_the_input_is_given_as_it_stands():
    length = "import sys\nprint(len(sys.stdin.read()))"
    assert (
        outcome(length, {"inputs": ["abcd", "abcd\n", "", "\n", "é\r\n"], "outputs": ["4", "5", "0", "1", "2"]})
        == "passed"
    )


def test_long_integers_as_results():
    source = "def f(n): return 10 ** n"
    assert outcome(source, {"fn_name": "f", "inputs": [[6000]], "outputs": [10**6000]}) == "passed"
    assert outcome(source, {"fn_name": "f", "inputs": [[6000]], "outputs": [10**6000 + 1]}) == "wrong"


def test_keyword_arguments():
    source = "def f(b, a): return b - a"
    assert outcome(source, {"fn_name": "f", "inputs": [{"a": 1, "b": 3}], "outputs": [2]}) == "passed"
    assert outcome(source, {"fn_name": "f", "inputs": [{"b": 1, "a": 3}], "outputs": [2]}) == "wrong"


def test_integer_keys_of_arguments():
    source = "def f(names): return {key: len(names[key]) for key in sorted(names) if key + 1}"
    assert (
        outcome(source, {"fn_name": "f", "inputs": [[{"2": "ab", "10": "c"}]], "outputs": [{"10": 1, "2": 2}]})
        == "passed"
    )


def test_float_tolerance_of_output_and_results():
    source = "print(0.1 + 0.2)\ndef f(): return [0.1 + 0.2]"
    for tests in ({"inputs": [""], "outputs": ["0.3"]}, {"inputs": [[]], "outputs": [[[0.3]]], "fn_name": "f"}):
        assert outcome(source, tests) == "wrong"
        assert outcome(source, tests, float_tolerance=1e-9) == "passed"


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

"""The names that a program may use without importing them, as its data's judge gives them."""

from __future__ import annotations

import builtins

import pytest
from graded_programs import outcome

from llmrl.rewards.code.case_formats import CallTests, CodeTests, StdinTests
from llmrl.rewards.code.preamble import OF_SYS, OPENED, SORTED, judge_names, preamble_for

CALL = {"fn_name": "f", "inputs": [[3]], "outputs": [6]}
STDIN = {"inputs": ["3"], "outputs": ["6"]}

BODIES = {
    "typing": "x: List[Optional[Dict[str, int]]] = []",
    "collections": "x = deque(), defaultdict(int), Counter(), OrderedDict()",
    "heaps and searches": "x = [1]; heappush(x, 2); heapq.heappop(x); bisect_left(x, 2); bisect.insort(x, 1)",
    "math": "x = inf, math.inf, gcd(4, 6), sqrt(4), math.comb(4, 2), floor(1.5), ceil(1.5), log2(8)",
    "itertools": "x = list(accumulate([1, 2])), list(itertools.chain([1])), list(permutations('ab'))",
    "functools": "x = reduce(lambda a, b: a + b, [1]), lru_cache(None)(abs)(1), cache(abs), functools.partial(max)",
    "texts": "x = ascii_lowercase, string.digits, re.sub('a', 'b', 'a')",
    "modules": "x = datetime.datetime(2020, 1, 2), copy.deepcopy([1]), random.seed(0), operator.add(1, 2), sys.maxsize",
    "builtins": "x = pow(2, 5, 7), sum([1]), abs(-1), max(1, 2), min([1]), open, int, all([]), any([]), round(1.5)",
    "sorted": "x = SortedList([2, 1])[0], SortedDict({2: 1}).peekitem(0), SortedSet([1]) | {2}",
    "nodes": "x = ListNode(1, ListNode()).next.val, TreeNode(1).left",
}


def test_what_a_judge_gives_is_there():
    body = "\n    ".join(BODIES.values())
    assert outcome(f"def f(n):\n    {body}\n    return 2 * n", CALL) == "passed"
    body = "\n".join(BODIES.values())
    assert outcome(f"{body}\nassert pow(2, 5, 7) == 4\nprint(2 * int(input()))", STDIN) == "passed"


def test_annotations_of_a_class_solution():
    source = """
        class Solution:
            def f(self, nums: List[int], head: Optional[ListNode] = None) -> int:
                @cache
                def total(start: int) -> int:
                    return nums[start] + total(start + 1) if start < len(nums) else 0
                return total(0)
        """
    assert outcome(source, {"fn_name": "f", "inputs": [[[1, 2, 3]]], "outputs": [6]}) == "passed"
    assert outcome(source, ["assert Solution().f([1, 2, 3]) == 6"]) == "passed"
    check = "def check(candidate):\n    assert candidate([1, 2, 3]) == 6\n"
    assert outcome(source, check, row={"name": "Solution().f"}, entry_point="name") == "passed"


def test_test_code_of_other_programs_runs_in_plain_python():
    source = "def f(n: List[int]): return sqrt(n)"
    assert outcome(source, ["assert f(4) == 2"]) == "runtime_error"
    assert outcome(source, ["assert f(4) == 2"], preamble="from typing import List\nfrom math import *") == "passed"


def test_a_program_may_define_each_name_itself():
    source = "from __future__ import annotations\ninf = 6\ndef gcd(n): return inf\ndef f(n): return gcd(n)"
    assert outcome(source, CALL) == "passed"


@pytest.mark.parametrize("source", ["x = 1", "class Solution: pass"])
def test_the_function_under_test_is_the_programs_own(source):
    calls = {"fn_name": "gcd", "inputs": [[4, 6]], "outputs": [2]}
    assert outcome(source, calls) == "runtime_error"
    assert outcome(source, ["assert gcd(4, 6) == 2"]) == "runtime_error"
    named = {"row": {"name": "gcd"}, "entry_point": "name", "preamble": "from math import *"}
    assert outcome(source, "def check(candidate):\n    assert candidate(4, 6) == 2\n", **named) == "runtime_error"
    assert outcome("def gcd(a, b): return math.gcd(a, b)", calls) == "passed"


def test_a_text_or_a_column():
    source = "def f(n): return two * n"
    assert outcome(source, CALL) == "runtime_error"
    assert outcome(source, CALL, preamble="two = 2") == "passed"
    assert outcome(source, CALL, row={"header": "two = 2"}, preamble="header") == "passed"
    assert outcome(source, CALL, row={"header": ["one = 1", "two = 2 * one"]}, preamble="header") == "passed"
    assert outcome("def f(n): return math.floor(2 * n)", CALL, preamble="") == "runtime_error"
    assert outcome("def f(n): return math.floor(2 * n)", CALL, preamble="import math") == "passed"


def test_tests_may_use_what_a_given_preamble_defines():
    header = "class Node:\n    def __init__(self, value):\n        self.value = value\n"
    source = "def f(node: Node): return node.value"
    assert outcome(source, ["assert f(Node(4)) == 4"], row={"header": header}, preamble="header") == "passed"
    assert outcome(source, ["assert f(Node(4)) == 5"], row={"header": header}, preamble="header") == "wrong"


def test_which_preamble():
    source = "x: List[int] = deque()\ny = gcd(heapq, lcm)"
    lines = ["from typing import List", "from collections import deque"]
    lines += ["from math import gcd", "import heapq", "from math import lcm"]
    assert preamble_for(StdinTests((("1", "1"),)), source) == "\n".join(lines)
    assert preamble_for(CodeTests(("assert f(1)",)), source) == ""
    assert preamble_for(CodeTests(("assert Solution().f(1)",)), source) == "\n".join(lines)
    for name in ("gcd", "gcd.f", "gcd().f"):
        names: dict[str, object] = {}
        exec(preamble_for(CallTests(name, ()), source), names)
        assert "gcd" not in names and "lcm" in names
        exec(preamble_for(CallTests(name, ()), source, "from math import *"), names)
        assert "gcd" not in names and "sqrt" in names
    assert preamble_for(CallTests("f", ()), source, "") == ""


def test_sorted_containers_are_left_out_where_they_are_not_installed(monkeypatch):
    judge_names.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    try:
        assert not judge_names().keys() & set(SORTED) and "deque" in judge_names()
    finally:
        judge_names.cache_clear()


def test_a_judge_names_what_these_statements_name():
    """The judges' header, of which each name has the same meaning here, but for Python's own names."""
    modules = ("sys", *OPENED)
    header = "\n".join([*(f"from {one} import *" for one in OPENED), f"import {', '.join(modules)}"])
    expected: dict[str, object] = {}
    exec(header, expected)
    given = judge_names()
    for name in expected.keys() - vars(builtins).keys() - {"__builtins__"}:
        found: dict[str, object] = {}
        exec(given[name], found)
        assert found[name] is expected[name], name
    assert given.keys() - expected.keys() == {*OF_SYS, *SORTED, "ListNode", "TreeNode"}

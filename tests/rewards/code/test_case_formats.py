from __future__ import annotations

import base64
import json
import pickle
import sys
import zlib

import numpy
import pytest

from llmrl.rewards.code.case_formats import Call, CallTests, CodeTests, StdinTests, any_digits, read_tests

STDIN = StdinTests((("1\n2\n", "3\n"), ("5 6", "11")))


@pytest.mark.parametrize(
    "tests",
    [
        {"inputs": ["1\n2\n", "5 6"], "outputs": ["3\n", "11"]},
        {"inputs": [["1", "2", ""], ["5 6"]], "outputs": [["3", ""], ["11"]]},  # lines
        {"input": ["1\n2\n", "5 6"], "output": ["3\n", "11"], "is_generated": [True, False]},
        {"inputs": numpy.array(["1\n2\n", "5 6"]), "outputs": ("3\n", "11"), "fn_name": None},
        [{"input": "1\n2\n", "output": "3\n", "testtype": "stdin"}, {"input": "5 6", "output": "11"}],
        [{"input": "1\n2\n", "output": "3\n"}, {"input": "5 6", "output": "11"}],
        [{"input": "1\n2\n", "output": "3\n", "type": "stdin_stdout"}, {"input": "5 6", "output": "11"}],
        [{"input": "1\n2\n", "output": "3\n", "testtype": None, "fn_name": None}, {"stdin": "5 6", "stdout": "11"}],
        ['{"input": "1\\n2\\n", "output": "3\\n"}', '{"input": "5 6", "expected_output": "11"}'],
        {"0": {"input": "1\n2\n", "output": "3\n"}, "1": {"input": "5 6", "output": "11"}},
        {"inputs": {"1": "5 6", "0": "1\n2\n"}, "outputs": {"0": "3\n", "1": "11"}},
        {"inputs": '["1\\n2\\n", "5 6"]', "outputs": '["3\\n", "11"]'},
        {"test_cases": [{"input": "1\n2\n", "output": "3\n", "type": "stdin"}, {"input": "5 6", "output": "11"}]},
        {"language": "python", "test_cases": {"inputs": ["1\n2\n", "5 6"], "outputs": ["3\n", "11"]}},
        {"ground_truth": '{"inputs": ["1\\n2\\n", "5 6"], "outputs": ["3\\n", "11"]}', "language": "Python 3"},
        {"official_tests": [{"input": "1\n2\n", "output": "3\n"}, {"input": "5 6", "output": "11"}], "metadata": "A"},
    ],
    ids=lambda tests: repr(tests)[:30],
)  # fmt: skip
def test_stdin_and_stdout(tests):
    assert read_tests(tests) == STDIN
    if not isinstance(tests, dict) or not isinstance(tests.get("inputs"), numpy.ndarray):
        assert read_tests(json.dumps(tests)) == STDIN


def test_the_input_of_one_test_may_stand_alone():
    assert read_tests({"input": "1\n", "output": "2\n"}) == StdinTests((("1\n", "2\n"),))
    assert read_tests({"input": "[1, 2]\n", "output": "[2]\n"}) == StdinTests((("[1, 2]\n", "[2]\n"),))


def test_texts_of_python_literals():
    tests = {"inputs": ["1\n2\n", "5 6"], "outputs": ("3\n", "11"), "fn_name": None}
    assert read_tests(repr(tests)) == STDIN
    assert read_tests(repr(["assert f(1) == 2"])) == CodeTests(("assert f(1) == 2",))


def test_packed_tests_of_livecodebench():
    cases = [{"input": "[3, 1]\n2", "output": "[6, 2]", "testtype": "functional"}]
    text = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()
    expected = CallTests("scaled", (Call(([3, 1], 2), ([6, 2],)),))
    for metadata in ('{"func_name": "scaled"}', {"func_name": "scaled", "difficulty": 3}):
        assert read_tests(text, entry_point=metadata) == expected
        assert read_tests([{**cases[0], "metadata": metadata}]) == expected
        assert read_tests({"tests": text, "metadata": metadata}) == expected
    starter = "class Solution:\n    def scaled(self, items: List[int], by: int) -> List[int]:\n        "
    assert read_tests(text, entry_point=starter) == CallTests("Solution().scaled", expected.calls)
    with pytest.raises(ValueError, match="neither fn_name nor the entry point"):
        read_tests(text, entry_point="{}")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("def add(a, b):\n", "add"),
        ("import math\n\nasync def add (a, b):\n    pass", "add"),
        ("# class Node:\n#     def __init__(self):\nclass Solution:\n    def f(self):\n        ", "Solution().f"),
        ("class Adder:\n    def __init__(self):\n        pass\n    def add(self, a):\n        ", "Adder().add"),
        ("class Node:\n    def next(self):\n        pass\n\ndef add(node):\n    ", "add"),
    ],
)
def test_an_entry_point_may_be_the_code_that_begins_it(code, name):
    assert read_tests({"inputs": [[1]], "outputs": [2]}, entry_point=code) == CallTests(name, (Call((1,), (2,)),))


def test_keyword_arguments():
    expected = CallTests("f", (Call((), ([0, 1],), {"nums": [2, 7], "target": 9}),))
    keywords = {"nums": [2, 7], "target": 9}
    assert read_tests({"fn_name": "f", "inputs": [keywords], "outputs": [[0, 1]]}) == expected
    assert read_tests([{"fn_name": "f", "input": keywords, "output": [0, 1]}]) == expected
    assert read_tests([{"input": "nums = [2, 7], target = 9", "output": "[0, 1]"}], entry_point="f") == expected
    mixed = read_tests([{"input": "(2, 7), target=None", "output": "True"}], entry_point="f")
    assert mixed == CallTests("f", (Call(([2, 7],), (True,), {"target": None}),))


def test_integer_keys_of_mappings_are_integers():
    expected = CallTests("f", (Call(({1: "a", -2: "b"}, {"x": 1}), ({"3": 4},)),))
    assert (
        read_tests({"fn_name": "f", "inputs": [[{"1": "a", "-2": "b"}, {"x": 1}]], "outputs": [{"3": 4}]}) == expected
    )
    assert read_tests({"fn_name": "f", "inputs": [[{1: "a", -2: "b"}, {"x": 1}]], "outputs": [{"3": 4}]}) == expected
    assert (
        read_tests({"fn_name": "f", "inputs": ['{"1": "a", "-2": "b"}\n{"x": 1}'], "outputs": ['{"3": 4}']}) == expected
    )
    alone = read_tests({"fn_name": "f", "inputs": [{"1": "a"}], "outputs": [5]})
    assert alone == CallTests("f", (Call(({1: "a"},), (5,)),))


def test_long_integers():
    limit = sys.get_int_max_str_digits()
    number = 10**6000 + 7
    for result in (number, f'"1{"0" * 5999}7"'):
        with any_digits():
            text = f'{{"fn_name": "f", "inputs": ["1"], "outputs": [{result}]}}'
        assert read_tests(text) == CallTests("f", (Call((1,), (number,)),))
    assert sys.get_int_max_str_digits() == limit


def test_calls_with_lists_of_arguments():
    tests = {"inputs": [[1, [2, 3]], ["a", None]], "outputs": [6, {"k": [1]}], "fn_name": "f"}
    assert read_tests(tests) == CallTests("f", (Call((1, [2, 3]), (6,)), Call(("a", None), ({"k": [1]},))))


def test_a_result_in_a_list_of_one_may_be_meant_bare():
    tests = {"inputs": [[1], [2]], "outputs": [[5], [[1, 2]]], "fn_name": "f"}
    assert read_tests(tests) == CallTests("f", (Call((1,), ([5], 5)), Call((2,), ([[1, 2]], [1, 2]))))


def test_calls_with_lines_of_json():
    tests = [
        {"input": '[1, 2]\n"a"\n', "output": "true", "testtype": "functional"},
        {"input": "3\n\n4", "output": "[0.5]", "testtype": "functional"},
    ]
    expected = CallTests("f", (Call(([1, 2], "a"), (True,)), Call((3, 4), ([0.5],))))
    assert read_tests(tests, entry_point="f") == expected
    assert read_tests([{**test, "fn_name": "f"} for test in tests]) == expected
    lists = {"inputs": ['[1, 2]\n"a"\n', "3\n4"], "outputs": ["true", [0.5]], "fn_name": "f"}
    assert read_tests(lists) == expected
    kinds = [{"input": [3, 4], "output": [0.5], "type": "function_call", "fn_name": "f"}]
    assert read_tests(kinds) == CallTests("f", (Call((3, 4), ([0.5], 0.5)),))


def test_an_entry_point_may_name_a_method():
    tests = {"inputs": [[1]], "outputs": [2]}
    for name in ("f", "Solution.f", "Solution().f"):
        assert read_tests(tests, entry_point=name) == CallTests(name, (Call((1,), (2,)),))
    assert read_tests({**tests, "fn_name": "g"}, entry_point="f") == CallTests("g", (Call((1,), (2,)),))


def test_code():
    asserts = ["assert f(1) == 2", "assert f(2) == 3"]
    assert read_tests(asserts) == CodeTests(tuple(asserts))
    assert read_tests(json.dumps(asserts), setup="x = 1") == CodeTests(tuple(asserts), "x = 1")
    assert read_tests(numpy.array(asserts), setup=["import math", "x = 1"]).setup == "import math\nx = 1"
    check = "\n\ndef check(candidate):\n    assert candidate(1) == 2\n"
    assert read_tests(check, entry_point="f") == CodeTests((check,), "", "f")
    assert read_tests(check, setup=None, entry_point="") == CodeTests((check,))
    assert read_tests(["[f(x) for x in y]", "{f(1)}"]).snippets == ("[f(x) for x in y]", "{f(1)}")
    assert read_tests('"""Tests of f."""\nassert f(1) == 2').snippets == ('"""Tests of f."""\nassert f(1) == 2',)


@pytest.mark.parametrize("key", ["assert_case", "assert_cases", "tests", "test_cases", "test_list"])
def test_asserts_in_a_mapping(key):
    asserts = ["assert f(1) == 2", "assert f(2) == 3"]
    around = {"inputs": ["", ""], "outputs": [None, None], "fn_name": "f"}
    assert read_tests({key: asserts}) == CodeTests(tuple(asserts))
    assert read_tests(json.dumps({**around, key: asserts})) == CodeTests(tuple(asserts), "", "f")


def test_code_in_a_mapping():
    check = "def check(candidate):\n    assert candidate(1) == 2\n"
    assert read_tests({"test": check, "entry_point": "f"}) == CodeTests((check,), "", "f")
    assert read_tests({"functional": check}) == CodeTests((check,))
    mbpp = {"test_list": ["assert f(1) == 2"], "test_imports": ["import math", "x = 1"], "test_setup_code": "y = 2"}
    assert read_tests(mbpp, setup="z = 3").setup == "z = 3\ny = 2\nimport math\nx = 1"


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ([], "no tests"),
        ("[]", "no tests"),
        ({"inputs": [], "outputs": []}, "no tests"),
        ("", "the test code is empty"),
        (["assert f(1)", " "], "a test is empty"),
        (None, "no known format: None"),
        (5, "no known format: 5"),
        ([1, 2], "no known format"),
        ([["a"]], "no known format"),
        (["assert f(1)", {"input": "1", "output": "2"}], "no known format"),
        ({"in": [1]}, "the keys ['in']: expected inputs and outputs"),
        ({"inputs": ["1"], "outputs": []}, "lists of one length"),
        ({"inputs": "1", "outputs": "1"}, "lists of one length"),
        ({"inputs": [1], "outputs": ["1"]}, "an input for stdin is 1"),
        ({"inputs": ["1"], "outputs": [None]}, "an output for stdin is None"),
        ({"inputs": ["not json"], "outputs": ["1"], "fn_name": "f"}, "not JSON: 'not json'"),
        ({"inputs": ["1"], "outputs": ["nope"], "fn_name": "f"}, "not JSON"),
        ({"inputs": [5], "outputs": [1], "fn_name": "f"}, "expected a list of arguments"),
        ({"inputs": ["x = g(1)"], "outputs": ["1"], "fn_name": "f"}, "not JSON: 'x = g(1)'"),
        ({"inputs": ["1) + f(2"], "outputs": ["1"], "fn_name": "f"}, "not JSON"),
        ({"inputs": ["**{'a': 1}"], "outputs": ["1"], "fn_name": "f"}, "not JSON"),
        ({"inputs": [[1]], "outputs": [1], "fn_name": "os.system('x')"}, "expected the name of a function"),
        ({"inputs": [[b"x"]], "outputs": [1], "fn_name": "f"}, "JSON does not have"),
        ([{"input": "1"}], "expected input and output"),
        ([{"input": "1", "output": "1", "testtype": "functional"}], "neither fn_name nor the entry point"),
        ([{"input": "1", "output": "1", "testtype": "magic"}], "the type 'magic'"),
        ([{"input": "1", "output": "1", "fn_name": "f"}, {"input": "1", "output": "1"}], "several types"),
        ([{"input": "1", "output": "1", "fn_name": "f"}, {"input": "1", "output": "1", "fn_name": "g"}], "several"),
        ("{'inputs': ['1'], 'outputs': ['1'}", "look like JSON and are not"),
        ("{'inputs': [open('x')], 'outputs': ['1']}", "look like JSON and are not"),
        ({"language": "cpp", "test_cases": [{"input": "1", "output": "1"}]}, "programs in 'cpp', expected python"),
        ({"test_cases": []}, "no tests"),
        ({"0": "a", "2": "b"}, "the keys ['0', '2']: expected inputs and outputs"),
        ({"test_cases": 5}, "no known format: 5"),
        ("eJxzzsAAAAAA", "packed tests"),
        (base64.b64encode(zlib.compress(pickle.dumps("assert f(1) == 2"))).decode(), "not: 'assert f(1) == 2'"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_errors_name_the_fault(tests, message):
    with pytest.raises(ValueError) as caught:
        read_tests(tests)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value"), [("setup", 5), ("setup", [1]), ("entry_point", 5), ("entry_point", "a b")]
)
def test_wrong_columns(column, value):
    with pytest.raises(ValueError, match="expected"):
        read_tests("assert f(1)", **{column: value})

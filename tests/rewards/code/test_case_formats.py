from __future__ import annotations

import json

import numpy
import pytest

from llmrl.rewards.code.case_formats import Call, CallTests, CodeTests, StdinTests, read_tests

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
    ],
    ids=lambda tests: repr(tests)[:30],
)  # fmt: skip
def test_stdin_and_stdout(tests):
    assert read_tests(tests) == STDIN
    if not isinstance(tests, dict) or not isinstance(tests.get("inputs"), numpy.ndarray):
        assert read_tests(json.dumps(tests)) == STDIN


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
        ({"inputs": [{"a": 1}], "outputs": [1], "fn_name": "f"}, "expected a list of arguments"),
        ({"inputs": [[1]], "outputs": [1], "fn_name": "os.system('x')"}, "expected the name of a function"),
        ({"inputs": [[b"x"]], "outputs": [1], "fn_name": "f"}, "JSON does not have"),
        ([{"input": "1"}], "expected input and output"),
        ([{"input": "1", "output": "1", "testtype": "functional"}], "neither fn_name nor the entry point"),
        ([{"input": "1", "output": "1", "testtype": "magic"}], "the type 'magic'"),
        ([{"input": "1", "output": "1", "fn_name": "f"}, {"input": "1", "output": "1"}], "several types"),
        ([{"input": "1", "output": "1", "fn_name": "f"}, {"input": "1", "output": "1", "fn_name": "g"}], "several"),
        ("{'inputs': ['1'], 'outputs': ['1']}", "look like JSON and are not"),
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

"""The score of a completion: each outcome has its value, but a bad row or a failing sandbox is an error, not a zero."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest
from graded_programs import CALLS, SUMS, completion, graded, outcome

from llmrl.rewards.base import Rewards
from llmrl.rewards.code import verifier as module
from llmrl.rewards.code.extraction import CodeExtract
from llmrl.rewards.code.verifier import code_verifier, verdict_key
from llmrl.rewards.workers import Workers
from llmrl.sandbox import SandboxError, shared
from llmrl.types import ACTOR, Group, Prompt, Score, Trajectory, Turn

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
COLUMNS: dict[str, Any] = {"tests": "test", "entry_point": "entry_point", "prefix": "prompt"}


def test_a_function_that_a_prompt_begins():
    forms: tuple[tuple[str, CodeExtract], ...] = (
        (f"```python\n{PROMPT}{BODY}```", "fenced"),
        (f"```python\n{BODY}```", "fenced"),
        (BODY, "all"),
        (f"<answer>\n{BODY}</answer>", "tag"),
    )
    for text, extract in forms:
        assert code_verifier(text, HUMAN_EVAL, extract=extract, **COLUMNS) == Score(
            1.0, True, outcome="passed", grade=3
        )
    assert code_verifier("    return text", HUMAN_EVAL, extract="all", **COLUMNS).outcome == "wrong"
    # this program redefines shift, so it agrees with itself but not with the prompt's shift
    cheat = f"```python\n{PROMPT}    return text\n\ndef shift(text):\n    return text\n```"
    assert code_verifier(cheat, HUMAN_EVAL, **COLUMNS).outcome == "wrong"


def limits(source: str) -> dict[str, float]:
    """Return limits under which only a program that sleeps runs out of wall time, however busy the machine is."""
    return {"cpu_seconds": 0.5, "wall_seconds": 1.0 if "sleep" in source else 40.0}


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
    assert outcome(source, tests, **limits(source)) == expected


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
    assert outcome(source, {"inputs": [[3]], "outputs": [6], "fn_name": "f"}, **limits(source)) == expected
    assert outcome(source, ["assert f(3) == 6"], **limits(source)) == expected


def test_no_program():
    for text in ("no code", "```python\nprint(6)"):
        score = code_verifier(text, {"tests": {"inputs": ["3"], "outputs": ["6"]}}, compile_error=-1.0)
        assert score == Score(-1.0, False, outcome="no_program", grade=0)


def test_an_unfinished_thought_is_no_program():
    row = {"tests": {"inputs": ["3"], "outputs": ["6"]}}
    right = completion("print(2 * int(input()))")
    assert code_verifier(f"<think>maybe\n{right}\nbut", row).outcome == "no_program"
    assert code_verifier(f"maybe\n{right}\nbut", row, "Solve it.<think>").outcome == "no_program"
    assert code_verifier(f"maybe</think>\n{right}", row, "Solve it.<think>").outcome == "passed"
    assert code_verifier(f"{completion('print(5)')}<end>\n{right}", row, thoughts_end="<end>").outcome == "passed"
    reading = code_verifier.reading
    assert reading.read(f"maybe</think>\n{right}", "Solve it.<think>", partial=True) == "print(2 * int(input()))\n"
    assert reading.same("x = 1\n", "x = 1\n") and not reading.same("x = 1\n", "x = 2\n")


NESTED = {
    "reward_model": {"ground_truth": json.dumps({"inputs": [[[3, 1, 2]]], "outputs": [[[1, 2, 3]]]}), "style": "rule"},
    "extra": {
        "name": "ordered",
        "code": "def twice(x):\n    return 2 * x\n",
        "asserts": ["assert ordered(some) == [1, 2]"],
    },
    "info": json.dumps({"setup": ["some = [2, 1]"]}),
    "metadata": "{}",
}


def test_columns_may_be_paths():
    source = "def ordered(items): return sorted(items)"
    calls = {"tests": "reward_model.ground_truth", "entry_point": "extra.name"}
    assert code_verifier(completion(source), NESTED, **calls).outcome == "passed"
    asserts = {"tests": "extra.asserts", "setup": "info.setup"}
    assert code_verifier(completion(source), NESTED, **asserts).outcome == "passed"
    doubled = completion("def ordered(items): return sorted(items) if twice(1) == 2 else None")
    for setting in ("prefix", "preamble"):
        assert code_verifier(doubled, NESTED, **asserts, **{setting: "extra.code"}).outcome == "passed"
    assert code_verifier(doubled, NESTED, **asserts).outcome == "runtime_error"


def test_tests_in_several_columns():
    row = {"inputs": '["3", "4"]', "info": {"outputs": ["6", "8"]}, "func_name": None}
    source = completion("print(2 * int(input()))")
    settings: dict[str, Any] = {"tests": ["inputs", "info.outputs", "func_name"]}
    assert code_verifier(source, row, **settings).outcome == "passed"
    assert code_verifier(source, {**row, "info": {"outputs": ["6", "9"]}}, **settings).outcome == "wrong"
    calls = completion("def twice(n): return 2 * n")
    named = {"inputs": ["3"], "info": '{"outputs": ["6"]}', "func_name": "twice"}
    assert code_verifier(calls, named, **settings).outcome == "passed"
    with pytest.raises(
        ValueError, match=r"tests in 'inputs, func_name' cannot be used: .* expected inputs and outputs"
    ):
        code_verifier(source, row, tests=["inputs", "func_name"])
    assert verdict_key(source, row, **settings) != verdict_key(source, {**row, "inputs": '["3", "5"]'}, **settings)


def test_rows_without_a_name_at_a_paths_end_have_no_entry_point():
    row = {**NESTED, "tests": [{"input": "3", "output": "6", "testtype": "stdin"}]}
    source = completion("print(2 * int(input()))")
    assert code_verifier(source, row, entry_point="metadata.func_name").outcome == "passed"
    with pytest.raises(ValueError, match="no column 'meta'"):
        code_verifier(source, row, entry_point="meta.func_name")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tests": "reward_model.ground_trut"}, "no column 'ground_trut'; did you mean 'ground_truth'?"),
        ({"tests": "extra.asserts", "setup": "inf"}, "no column 'inf'; did you mean 'info'?"),
        ({"tests": "extra.asserts", "prefix": "extra.cod"}, "no column 'cod'; did you mean 'code'?"),
        ({"tests": "extra.asserts", "preamble": "extra.cod"}, "no column 'cod'; did you mean 'code'?"),
        ({"tests": "extra.asserts", "preamble": "reward_model"}, "the column 'reward_model' is {'ground_truth'"),
    ],
)
def test_a_missing_column_is_told_with_the_nearest(settings, message):
    with pytest.raises(ValueError) as caught:
        code_verifier(completion("x = 1"), NESTED, **settings)
    assert message in str(caught.value)


VALUES: dict[str, Any] = {"passed": 2.0, "wrong": -0.3, "timeout": -0.5, "runtime_error": -0.6, "compile_error": -1.0}


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
    assert (score.outcome, score.grade) == ("runtime_error", 1)
    # nothing after a timeout: (2 - 0.5 - 0.5 - 0.5) / 4
    hangs = "n = input()\nwhile n == '2': pass\nprint(n)"
    assert graded(hangs, tests, partial=True, cpu_seconds=0.5, **VALUES).value == pytest.approx(0.125)
    # code: passed, wrong, raised, passed: (2 - 0.3 - 0.3 + 2) / 4
    asserts = ["assert f(1) == 1", "assert f(2) == 3", "assert f(None) == 1", "assert f(4) == 4"]
    score = graded("def f(n): return n + 0", asserts, partial=True, **VALUES)
    assert score.value == pytest.approx(0.85)
    assert score.outcome == "wrong"
    # the program ends at the second call: (2 - 0.6 - 0.6 - 0.6) / 4
    score = graded("import os\ndef f(n): return n if n == 1 else os._exit(0)", asserts, partial=True, **VALUES)
    assert score.value == pytest.approx(0.05)
    # a compile error gets no partial credit, and a passed program gets all of it
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


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"test": []}, "no column 'tests'; did you mean 'test'"),
        ({"tests": []}, "the tests in 'tests' cannot be used: there are no tests"),
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


def test_a_preamble_that_raises_is_an_error_not_a_zero():
    for tests in ({"inputs": ["1"], "outputs": ["1"]}, ["assert f(1) == 1"]):
        with pytest.raises(ValueError, match=r"preamble.*NameError: name 'nothing' is not defined"):
            graded("def f(n): return n\nprint(1)", tests, preamble="x = nothing")


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
        assert [one.grade for one in group.trajectories] == [3, 2, 0, 3, 2]
        assert rewards.cache.hits == 2


def test_the_cache_key_holds_everything_that_the_verdict_depends_on():
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
        verdict_key(completion("x = 1"), row, preamble=""),
        verdict_key(completion("x = 1"), {**row, "other": {"name": "f"}}, entry_point="other.name"),
        verdict_key(completion("x = 1"), {**row, "other": {"name": "g"}}, entry_point="other.name"),
    ]
    assert len({key, *others}) == 10
    assert verdict_key("<think>" + completion("x = 1"), row) == verdict_key("none", row)
    assert verdict_key("</think>" + completion("x = 1"), row, "<think>") == key


def test_the_shared_sandbox_serves_all():
    assert shared() is shared()
    assert math.isfinite(graded("print(1)", SUMS).value)


@pytest.mark.parametrize(
    ("said", "partial", "told"),
    [
        ("2*x+1", True, "The program passes all tests."),
        ("x+1", True, "The program is wrong: gave 2, expected 3, for [1]. It passes 1 of 3 tests."),
        ("x+1", False, "The program is wrong: gave 2, expected 3, for [1]."),
        (
            "1//x",
            True,
            "The program fails: ZeroDivisionError: integer division or modulo by zero. It passes 1 of 3 tests.",
        ),
        ("open", True, "The program is wrong: gave an object, expected 1, for [0]. It passes 0 of 3 tests."),
        ("x+", True, "The program does not compile."),
    ],
)
def test_feedback_tells_the_outcome_the_first_failed_test_and_how_many_pass(said, partial, told):
    row = {"tests": {"fn_name": "f", "inputs": [[0], [1], [2]], "outputs": [1, 3, 5 if said != "1//x" else 0]}}
    row["before"] = "def f(x):\n    return "
    assert code_verifier(said, row, extract="all", prefix="before", partial=partial).feedback == told


def test_feedback_on_output_tells_what_was_printed():
    row = {"tests": {"inputs": ["3\n"], "outputs": ["9\n"]}}
    assert code_verifier("print(int(input())*2)", row, extract="all").feedback == (
        'The program is wrong: printed "6", expected "9", for "3".'
    )
    assert code_verifier("", row, extract="fenced").feedback == "There is no program."

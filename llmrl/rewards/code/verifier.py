"""The verifier of programs: does the program in a completion pass the row's tests?

completion ──extraction──> source ──┬── stdin and stdout: one run for each test, whose output is compared here
                                    └── calls and test code: the program in one process, its tests in another

The program runs in the sandbox and never shares a process with its tests. Expected results never reach the program's
process, and no object of the program runs code in the grading process (llmrl/sandbox/jailed: serve.py runs the program,
grader.py runs the tests, and remote_objects.py joins them).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
import re
from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from llmrl.columns import NoColumnError, column, root
from llmrl.marks import gives_grades, reads_answers, runs_programs, takes_seconds
from llmrl.rewards.cache import cached_by
from llmrl.rewards.code.case_formats import Tests, read_tests
from llmrl.rewards.code.extraction import CodeExtract, program
from llmrl.rewards.code.grader import Grader, Outcome, Verdict
from llmrl.rewards.code.preamble import preamble_for
from llmrl.sandbox import Limits, shared
from llmrl.types import Score

_CODE = re.compile(r"^$|import |[=(\n]")

GRADES: dict[Outcome, int] = {
    "no_program": 0,
    "compile_error": 0,
    "runtime_error": 1,
    "timeout": 1,
    "wrong": 2,
    "passed": 3,
}


def verdict_key(
    completion: str,
    row: Mapping[str, Any],
    prompt: str = "",
    *,
    tests: str | list[str] = "tests",
    setup: str | None = None,
    entry_point: str | None = None,
    prefix: str | None = None,
    preamble: str | None = None,
    **settings: Any,
) -> bytes:
    """Return the key under which a verdict is cached: the program, the columns that are read, and the settings."""
    source = program(completion, prompt, **settings)
    names = (*_names(tests), setup, entry_point, prefix, preamble)
    columns = [_fingerprint(_Same(root(row, name))) for name in names if name]
    text = b"" if source is None else b"program" + source.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(pickle.dumps((text, columns, names, sorted(settings.items())))).digest()


@gives_grades(1 + max(GRADES.values()))
@takes_seconds(300.0)
@runs_programs
@cached_by(verdict_key)
@reads_answers(program)
def code_verifier(
    completion: str,
    row: Mapping[str, Any],
    prompt: str = "",
    *,
    tests: str | list[str] = "tests",
    setup: str | None = None,
    entry_point: str | None = None,
    prefix: str | None = None,
    preamble: str | None = None,
    extract: CodeExtract = "fenced",
    tag: str = "answer",
    thoughts_end: str | None = None,
    partial: bool = False,
    passed: float = 1.0,
    wrong: float = 0.0,
    timeout: float = 0.0,
    runtime_error: float = 0.0,
    compile_error: float = 0.0,
    max_tests: PositiveInt | None = None,
    float_tolerance: NonNegativeFloat = 0.0,
    cpu_seconds: PositiveFloat = 4.0,
    wall_seconds: PositiveFloat = 40.0,
    memory_mb: PositiveInt = 512,
    allow_weak: bool = False,
) -> Score:
    """The value `passed` if the completion's program passes all tests of its row, else the value of its outcome.

    tests, setup, entry_point, prefix, preamble: columns of the row, or paths into them (reward_model.ground_truth): its
    tests (llmrl/rewards/code/case_formats.py lists the formats; a list of columns is a mapping of their last names),
    code that comes before test code, the name of the function under test, text that stands before the completion's
    program, such as HumanEval's prompt, and code that runs before it, whose default are the names of preamble.py. A
    prefix and a preamble may also be code, which has "import ", "=", "(" or a line's end; "" is none. extract:
    "fenced": the last block of Python, else the last block; "tag": the last `<tag>...</tag>`; "all": the completion as
    it stands, which continues the prefix. thoughts_end: the tag that ends the thoughts (llmrl/rewards/thoughts.py).

    Outcome in grader.py says what each outcome means; "no_program" has the value compile_error. partial: the mean over
    the tests instead, where a passed test counts `passed` and any other the outcome's value. After a timeout no further
    test runs, and unless partial, none runs after any failure.

    max_tests: the number of tests that count, from the first. float_tolerance: relative or absolute tolerance of
    numbers in the output or in a call's result. cpu_seconds, wall_seconds, memory_mb: limits of each run; all calls, or
    all test code, are one run. allow_weak: whether a sandbox without namespaces is accepted.

    Raises ValueError if the row's tests cannot be used, SandboxError if the sandbox failed. Sources: APPS, arXiv
    2105.09938; CodeRL, arXiv 2207.01780.
    """
    suite = _tests(row, tests, setup, entry_point)
    before, own = _code(row, prefix) or "", _code(row, preamble)
    source = program(completion, prompt, extract=extract, tag=tag, thoughts_end=thoughts_end)
    verdict = Verdict("no_program")
    if source is not None:
        source = before + ("" if extract == "all" or not before or before.endswith("\n") else "\n") + source
        limits = Limits(cpu_seconds=cpu_seconds, wall_seconds=wall_seconds, memory_mb=memory_mb)
        grader = Grader(shared(allow_weak=allow_weak), limits, not partial, float_tolerance, max_tests)
        around = {"preamble": preamble_for(suite, source, own), "helpers": "\n".join(filter(None, [own, before]))}
        verdict = grader.verdict(source, suite, **around)
    values = {"passed": passed, "wrong": wrong, "timeout": timeout, "runtime_error": runtime_error}
    return _score(verdict, {**values, "compile_error": compile_error, "no_program": compile_error}, partial)


def warm_up() -> None:
    """Start the sandbox before the first grading; if no sandbox works here, each grading raises the reasons."""
    with contextlib.suppress(Exception):
        shared()


def _score(verdict: Verdict, values: Mapping[str, float], partial: bool) -> Score:
    value = values[verdict.outcome]
    if partial:
        value += verdict.passed / verdict.tests * (values["passed"] - value)
    said = feedback(verdict, counted=partial)
    return Score(
        value, verdict.outcome == "passed", outcome=verdict.outcome, grade=GRADES[verdict.outcome], feedback=said
    )


SAID: dict[Outcome, str] = {
    "no_program": "There is no program.",
    "compile_error": "The program does not compile.",
    "runtime_error": "The program fails",
    "timeout": "The program takes too long.",
    "wrong": "The program is wrong",
    "passed": "The program passes all tests.",
}


def feedback(verdict: Verdict, *, counted: bool) -> str:
    """A verdict in words: the outcome, what the first failed test says, and, if all tests ran, how many passed."""
    said, told = SAID[verdict.outcome], verdict.told.removeprefix("AssertionError:").strip(" .")
    if not said.endswith("."):
        said += f": {told}." if told else "."
    failed = counted and verdict.outcome in ("runtime_error", "wrong")
    return f"{said} It passes {verdict.passed} of {verdict.tests} tests." if failed else said


def _names(tests: str | list[str]) -> list[str]:
    return [tests] if isinstance(tests, str) else tests


def _tests(row: Mapping[str, Any], tests: str | list[str], setup: str | None, entry_point: str | None) -> Tests:
    listed = isinstance(tests, list)
    held = {one.rpartition(".")[2]: column(row, one) for one in tests} if listed else column(row, tests)
    before, name = _value(row, setup), None
    try:
        name = _value(row, entry_point)
    except NoColumnError:  # at the end of a path: not all rows' tests call a function
        parent = str(entry_point).partition(".")[0]
        if parent == entry_point or parent not in row:
            raise
    try:
        return read_tests(held, setup=before, entry_point=name)
    except ValueError as error:
        raise ValueError(f"the tests in '{', '.join(_names(tests))}' cannot be used: {error}") from None


def _value(row: Mapping[str, Any], name: str | None) -> Any:
    return None if name is None else column(row, name)


def _code(row: Mapping[str, Any], name: str | None) -> str | None:
    """Return code: the setting's own, or the text or the lines in the column that it names."""
    value = name if name is not None and _CODE.search(name) else _value(row, name)
    if isinstance(value, list | tuple):
        value = "\n".join(map(str, value))
    if value is not None and not isinstance(value, str):
        raise ValueError(f"the column '{name}' is {repr(value)[:100]}, expected a text of code")
    return value


class _Same:
    """A key that compares values by identity, which is quick for values of any size."""

    def __init__(self, value: Any):
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


@functools.lru_cache(maxsize=256)
def _fingerprint(column: _Same) -> bytes:
    """Return a digest of a column, which is computed once for all completions of a row."""
    return hashlib.blake2b(pickle.dumps(column.value)).digest()

"""The grader of programs: runs a program and its tests in the sandbox and gives a verdict."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmrl.rewards.code.case_formats import Call, CallTests, CodeTests, StdinTests, Tests, any_digits
from llmrl.sandbox import Execution, Limits, Program, Sandbox, SandboxError

Outcome = Literal["passed", "wrong", "runtime_error", "timeout", "compile_error", "no_program"]
"""The outcome of the first failed test, else "passed".

"wrong": an assertion, another result; "runtime_error": an exception, an exit code other than 0, too much memory or
output; "timeout": a limit of time; "compile_error": the program does not compile; "no_program": there is none.
"""

TESTS_LIMITS = Limits(cpu_seconds=30.0, memory_mb=2048, output_kb=16 * 1024)
"""Limits of the process that runs the tests; its wall limit adds the time that it waits for the program."""

MESSAGE_CHARACTERS = 300
"""The most characters of each part of what a failed test says."""

PREAMBLE_FAILED = "preamble: "
"""How a run reports that its preamble raised, with the reason."""

MAX_FLOAT_CHARACTERS = 400
"""The length up to which numbers are compared by their values as floats too."""

_DECIMAL = re.compile(r"(?P<sign>[+-]?)(?=\.?[0-9])0*(?P<whole>[0-9]*)(?:\.(?P<digits>[0-9]*))?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Verdict:
    """A verdict. outcome: that of the first failed test; tests: their number; passed: the number of passed tests.

    told: what the first failed test says of its failure, in words.
    """

    outcome: Outcome
    passed: int = 0
    tests: int = 1
    told: str = ""


@dataclass(frozen=True)
class Grader:
    """A grader. limits: those of each run of a program. stop: whether to end at the first failed test.

    float_tolerance: relative or absolute tolerance of numbers that a program prints or returns.
    """

    sandbox: Sandbox
    limits: Limits
    stop: bool = True
    float_tolerance: float = 0.0
    max_tests: int | None = None

    def verdict(self, source: str, tests: Tests, *, preamble: str = "", helpers: str = "") -> Verdict:
        """Grade a program. preamble: code that runs before it; helpers: code whose definitions its tests may use.

        Raises ValueError if the tests can grade no program, SandboxError if the sandbox or the grading process failed.
        """
        program = {"source": source, "preamble": preamble}
        if isinstance(tests, StdinTests):
            return self._grade_by_output(program, tests)
        return self._grade_by_answers(program, self._tests_payload(tests, helpers))

    def _grade_by_output(self, payload: dict[str, str], tests: StdinTests) -> Verdict:
        pairs = tests.pairs[: self.max_tests]
        first: Outcome = "passed"
        passed, told = 0, ""
        for given, expected in pairs:
            outcome, said = self._outcome_of_run(payload, given, expected)
            passed += outcome == "passed"
            first, told = (outcome, said) if first == "passed" else (first, told)
            if outcome in ("compile_error", "timeout") or (outcome != "passed" and self.stop):
                break
        return Verdict(first, passed, len(pairs), told)

    def _outcome_of_run(self, payload: dict[str, str], given: str, expected: str) -> tuple[Outcome, str]:
        """Return the outcome of a run, and what it says of a failure."""
        room = max(self.limits.output_kb, len(expected) // 256)
        program = Program(payload, stdin=given.encode("utf-8", "replace"))
        execution = self.sandbox.run(program, replace(self.limits, output_kb=room))
        said = execution.report.decode("utf-8", "replace")
        if said.startswith(PREAMBLE_FAILED):
            raise ValueError(f"the row's tests cannot be used: the {said.strip()}")
        failure = _failure(execution)
        if failure is not None:
            lines = execution.stderr.decode("utf-8", "replace").strip().splitlines()
            return failure, lines[-1][:MESSAGE_CHARACTERS] if lines else ""
        printed = execution.stdout.decode("utf-8", "replace")
        if same_output(printed, expected, tolerance=self.float_tolerance):
            return "passed", ""
        said = (json.dumps(text.strip()[:MESSAGE_CHARACTERS]) for text in (printed, expected, given))
        return "wrong", "printed {}, expected {}, for {}".format(*said)

    def _tests_payload(self, tests: CallTests | CodeTests, helpers: str) -> dict[str, Any]:
        common = {"stop": self.stop, "max_tests": self.max_tests}
        if isinstance(tests, CallTests):
            calls = [{"name": tests.name, **_payload(call)} for call in tests.calls]
            return {"calls": calls, "float_tolerance": self.float_tolerance, **common}
        code = {"tests": tests.snippets, "setup": tests.setup, "entry_point": tests.entry_point}
        return {**code, "helpers": helpers, **common}

    def _grade_by_answers(self, payload: dict[str, str], tests: dict[str, Any]) -> Verdict:
        program, tests_run = self._run_both(payload, tests)
        lines = _report(tests_run)
        for line in lines:
            if "invalid" in line:
                raise ValueError(f"the row's tests cannot be used: {line['invalid']}")
        if not program.report:
            return Verdict("timeout" if program.ended == "wall_time" else "compile_error")
        count, results = lines[0]["tests"], lines[1:]
        passed = sum(result["result"] == "passed" for result in results)
        failed = next((result for result in results if result["result"] != "passed"), None)
        if failed is not None:
            return Verdict(_outcome(failed, program), passed, count, failed["message"])
        if tests_run.ended == "exited" and passed == count:
            return Verdict("passed", passed, count)
        if tests_run.ended in ("cpu_time", "memory", "output"):  # the program's results used these up
            return Verdict("timeout" if tests_run.ended == "cpu_time" else "runtime_error", passed, count)
        raise _grading_failed(tests_run)

    def _run_both(self, payload: dict[str, str], tests: dict[str, Any]) -> tuple[Execution, Execution]:
        wall = self.limits.wall_seconds + 2 * TESTS_LIMITS.cpu_seconds
        ours, theirs = socket.socketpair()
        with ours, theirs, any_digits():  # the tests' data are written as JSON
            program = self.sandbox.start(Program(payload, runner="serve", channel=theirs), self.limits)
            grading = self.sandbox.start(
                Program(tests, runner="grader", channel=ours), replace(TESTS_LIMITS, wall_seconds=wall)
            )
        try:
            tests_run = grading.result()
        finally:
            program_run = program.result()
        return program_run, tests_run


def _payload(call: Call) -> dict[str, Any]:
    """Return a call as JSON data; numbered: the places of arguments whose keys are integers, which JSON lacks."""
    numbered = [place for place, one in enumerate(call.args) if isinstance(one, dict) and int in map(type, one)]
    optional = {"kwargs": call.kwargs, "numbered": numbered}
    return {"args": call.args, "expected": call.expected, **{key: value for key, value in optional.items() if value}}


def same_output(printed: str, expected: str, *, tolerance: float = 0.0) -> bool:
    """Return whether two texts have the same lines, or lines of the same words; outer blank space does not count.

    Two numbers are the same word if |a - b| <= tolerance * max(1, |b|), so 1.50 equals 1.5 even for tolerance 0. Two
    integers are the same word only if they are equal, at any length.
    """
    ours, theirs = printed.strip().split("\n"), expected.strip().split("\n")
    return len(ours) == len(theirs) and all(
        _same_line(one.strip(), other.strip(), tolerance) for one, other in zip(ours, theirs, strict=True)
    )


def _same_line(printed: str, expected: str, tolerance: float) -> bool:
    if printed == expected:
        return True
    ours, theirs = printed.split(), expected.split()
    return len(ours) == len(theirs) and all(
        one == other or _same_number(one, other, tolerance) for one, other in zip(ours, theirs, strict=True)
    )


def _same_number(printed: str, expected: str, tolerance: float) -> bool:
    ours, theirs = _DECIMAL.fullmatch(printed), _DECIMAL.fullmatch(expected)
    if ours and theirs:
        if _digits(ours) == _digits(theirs):
            return True
        if ours["digits"] is None and theirs["digits"] is None:
            return False
    if max(len(printed), len(expected)) > MAX_FLOAT_CHARACTERS:
        return False
    if not (_NUMBER.fullmatch(printed) and _NUMBER.fullmatch(expected)):
        return False
    one, other = float(printed), float(expected)
    return one == other or abs(one - other) <= tolerance * max(1.0, abs(other))


def _digits(number: re.Match[str]) -> tuple[bool, str, str]:
    """Return a number's sign and digits, which are equal for equal numbers of any length: 007, 7 and +7.0."""
    whole, digits = number["whole"], (number["digits"] or "").rstrip("0")
    return number["sign"] == "-" and bool(whole or digits), whole, digits


def _failure(execution: Execution) -> Outcome | None:
    """Return the outcome of a run that failed, None if the run did not fail."""
    if not execution.report and execution.ended != "wall_time":
        return "compile_error"
    if execution.timed_out:
        return "timeout"
    return None if execution.exit_code == 0 and execution.ended == "exited" else "runtime_error"


def _outcome(failed: dict[str, Any], program: Execution) -> Outcome:
    if failed["result"] == "wrong":
        return "wrong"
    return "timeout" if failed["ended"] and program.timed_out else "runtime_error"


def _report(tests_run: Execution) -> list[dict[str, Any]]:
    """Return the lines that the grading process reported; raises SandboxError if there are none."""
    try:
        lines = [json.loads(line) for line in tests_run.report.splitlines()]
    except ValueError:
        raise _grading_failed(tests_run) from None
    if not lines:
        raise _grading_failed(tests_run)
    return lines


def _grading_failed(tests_run: Execution) -> SandboxError:
    said = tests_run.stderr.decode("utf-8", "replace").strip().splitlines()
    return SandboxError(
        f"the tests' process ended by itself ({tests_run.ended}): {said[-1] if said else 'it said nothing'}"
    )

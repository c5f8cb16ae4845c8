"""Grading a program by its tests, in the sandbox."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from llmrl.rewards.code.case_formats import CallTests, CodeTests, StdinTests, Tests
from llmrl.sandbox import Execution, Limits, Program, Sandbox, SandboxError

Outcome = Literal["passed", "wrong", "runtime_error", "timeout", "compile_error", "no_program"]

BENCH_LIMITS = Limits(cpu_seconds=30.0, memory_mb=2048, output_kb=16 * 1024)
"""Of the tests' own process, beside the time that it waits for the program."""

MAX_NUMBER_CHARACTERS = 400
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Verdict:
    """outcome: of the first test that is not passed; passed: how many of the `tests` are, as far as they were run."""

    outcome: Outcome
    passed: int = 0
    tests: int = 1


@dataclass(frozen=True)
class Grader:
    """limits: of each run of a program. stop: whether to end at the first test that is not passed.

    float_tolerance: relative or absolute, of numbers that a program prints or returns.
    """

    sandbox: Sandbox
    limits: Limits
    stop: bool = True
    float_tolerance: float = 0.0
    max_tests: int | None = None

    def verdict(self, source: str, tests: Tests, *, helpers: str = "") -> Verdict:
        """How the program does. helpers: code that stood before it, whose other definitions its tests may use.

        Raises ValueError if the tests can be used for no program, SandboxError if the sandbox or the tests' own process
        failed.
        """
        if isinstance(tests, StdinTests):
            return self._of_runs(source, tests)
        return self._of_answers(source, self._bench_payload(tests, helpers))

    def _of_runs(self, source: str, tests: StdinTests) -> Verdict:
        pairs = tests.pairs[: self.max_tests]
        first: Outcome = "passed"
        passed = 0
        for given, expected in pairs:
            outcome = self._of_run(source, given, expected)
            passed += outcome == "passed"
            first = outcome if first == "passed" else first
            if outcome in ("compile_error", "timeout") or (outcome != "passed" and self.stop):
                break
        return Verdict(first, passed, len(pairs))

    def _of_run(self, source: str, given: str, expected: str) -> Outcome:
        text = given if given.endswith("\n") or not given else given + "\n"
        room = max(self.limits.output_kb, len(expected) // 256)
        program = Program({"source": source}, stdin=text.encode("utf-8", "replace"))
        execution = self.sandbox.run(program, replace(self.limits, output_kb=room))
        failure = _failure(execution)
        if failure is not None:
            return failure
        printed = execution.stdout.decode("utf-8", "replace")
        return "passed" if same_output(printed, expected, tolerance=self.float_tolerance) else "wrong"

    def _bench_payload(self, tests: CallTests | CodeTests, helpers: str) -> dict[str, Any]:
        common = {"stop": self.stop, "max_tests": self.max_tests}
        if isinstance(tests, CallTests):
            calls = [{"name": tests.name, **asdict(call)} for call in tests.calls]
            return {"calls": calls, "float_tolerance": self.float_tolerance, **common}
        code = {"tests": tests.snippets, "setup": tests.setup, "entry_point": tests.entry_point}
        return {**code, "helpers": helpers, **common}

    def _of_answers(self, source: str, payload: dict[str, Any]) -> Verdict:
        program, bench = self._program_and_bench(source, payload)
        lines = _report(bench)
        for line in lines:
            if "invalid" in line:
                raise ValueError(f"the row's tests cannot be used: {line['invalid']}")
        if not program.report:
            return Verdict("timeout" if program.ended == "wall_time" else "compile_error")
        count, results = lines[0]["tests"], lines[1:]
        passed = sum(result["result"] == "passed" for result in results)
        failed = next((result for result in results if result["result"] != "passed"), None)
        if failed is not None:
            return Verdict(_outcome(failed, program), passed, count)
        if bench.ended == "exited" and passed == count:
            return Verdict("passed", passed, count)
        if bench.ended in ("cpu_time", "memory", "output"):  # spent on what the program returned
            return Verdict("timeout" if bench.ended == "cpu_time" else "runtime_error", passed, count)
        raise _broken(bench)

    def _program_and_bench(self, source: str, payload: dict[str, Any]) -> tuple[Execution, Execution]:
        wall = self.limits.wall_seconds + 2 * BENCH_LIMITS.cpu_seconds
        ours, theirs = socket.socketpair()
        with ours, theirs:
            program = self.sandbox.start(Program({"source": source}, runner="serve", channel=theirs), self.limits)
            bench = self.sandbox.start(
                Program(payload, runner="bench", channel=ours), replace(BENCH_LIMITS, wall_seconds=wall)
            )
        try:
            ended = bench.result()
        finally:
            served = program.result()
        return served, ended


def same_output(printed: str, expected: str, *, tolerance: float = 0.0) -> bool:
    """Whether two texts have the same lines, blank ends and spaces round lines aside, or lines of the same words.

    Numbers are the same word if |a - b| <= tolerance * max(1, |b|), which for tolerance 0 makes 1.50 equal to 1.5; two
    integers are so only if they are equal.
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
    if max(len(printed), len(expected)) > MAX_NUMBER_CHARACTERS:
        return False
    if not (_NUMBER.fullmatch(printed) and _NUMBER.fullmatch(expected)):
        return False
    if _INTEGER.fullmatch(printed) and _INTEGER.fullmatch(expected):
        return int(printed) == int(expected)
    one, other = float(printed), float(expected)
    return one == other or abs(one - other) <= tolerance * max(1.0, abs(other))


def _failure(execution: Execution) -> Outcome | None:
    """How a run of the program failed; None if it did not."""
    if not execution.report and execution.ended != "wall_time":
        return "compile_error"
    if execution.timed_out:
        return "timeout"
    return None if execution.exit_code == 0 and execution.ended == "exited" else "runtime_error"


def _outcome(failed: dict[str, Any], program: Execution) -> Outcome:
    if failed["result"] == "wrong":
        return "wrong"
    return "timeout" if failed["ended"] and program.timed_out else "runtime_error"


def _report(bench: Execution) -> list[dict[str, Any]]:
    """What the tests' process has told: at least how many tests there are, or why there are none."""
    try:
        lines = [json.loads(line) for line in bench.report.splitlines()]
    except ValueError:
        raise _broken(bench) from None
    if not lines:
        raise _broken(bench)
    return lines


def _broken(bench: Execution) -> SandboxError:
    said = bench.stderr.decode("utf-8", "replace").strip().splitlines()
    return SandboxError(
        f"the tests' process ended by itself ({bench.ended}): {said[-1] if said else 'it said nothing'}"
    )

"""The runner of tests: asks the program under test, which runs in another process, and grades its answers here.

The report has one JSON object a line:
    {"tests": count}                            the first line, once the tests have been read
    {"test": index, "result": "passed" | "wrong" | "error", "ended": whether the program has ended, "message": text}
    {"invalid": message}                        the tests themselves are at fault
"""

from __future__ import annotations

import functools
import io
import json
import os
import random
import socket
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import collected
import connection
import patches
import raising
import remote_objects
import sharing
import testcode
import values
import wire

MESSAGE_CHARACTERS = 300
PROGRAMS = ("solution", "main")
"""The names of the module from which tests may import the program's objects."""

LENT_KINDS = (io.StringIO, io.BytesIO, io.TextIOWrapper, io.BufferedReader, io.BufferedWriter, random.Random)
"""Library types whose objects a test may lend to the program, beside functions, iterators and its own objects."""

Result = tuple[str, str]
"""The word passed, wrong or error, and the reason."""


class InvalidError(Exception):
    """The tests are faulty: they can grade no program."""


class AbsentError(NameError):
    """The program lacks a name that the tests use."""


def main(payload: dict, report: int, channel: int) -> None:
    """Run the payload's tests and report their results. The payload has one of two forms:

        {"tests": [source, ...], "setup": source, "helpers": source, "entry_point": name or None}
        {"calls": [{"name", "args", "expected": [each of these is right]}, ...], "float_tolerance": number}

    A call may have "kwargs", and "numbered": the places of arguments whose keys are integers, which JSON lacks.
    "max_tests": the number of tests that count, from the first; "stop": whether to end at the first failed test.
    """

    def tell(**line: Any) -> None:
        os.write(report, (json.dumps(line) + "\n").encode())

    with socket.socket(fileno=channel) as channel_socket:
        runner = TestRunner(channel_socket)
        try:
            suite = Calls(runner, payload) if "calls" in payload else Snippets(runner, payload)
            tests = suite.tests[: payload.get("max_tests")]
            tell(tests=len(tests))
            failed = runner.start(suite.prepare)

            def run() -> None:
                for index, test in enumerate(tests):
                    result, message = failed or runner.result(test, suite.refresh)
                    tell(test=index, result=result, ended=runner.program.gone, message=message[:MESSAGE_CHARACTERS])
                    if result != "passed" and payload.get("stop"):
                        break

            suite.hold(run)
            if not (runner.asked or runner.any_failed):
                raise InvalidError("the tests ask nothing of the program")
        except InvalidError as error:
            tell(invalid=str(error)[:MESSAGE_CHARACTERS])


class TestRunner:
    """The runner of single tests against the program, which is reached through the connection `program`."""

    def __init__(self, channel: socket.socket):
        self.program = connection.Connection(
            channel,
            operate=_operate_for(self),
            lends=_lends,
            hides=_hides,
            settle=self._settle,
        )
        self.patches: patches.Patches | None = None
        self.folder = sharing.Folder()
        self.knows_data = False
        """Whether the tests' names hold the program's data, so that a test can grade it without a further question."""
        self.asked = self.any_failed = False

    def _settle(self) -> None:
        self.folder.tell(self.program.ask)
        if self.patches is not None:
            self.patches.tell(self.program.ask)

    def objects(self, names: Iterable[str]) -> dict[str, Any]:
        """Ask for the program's objects of these names, as they are now; those that it does not define are left out."""
        found = self.program.ask("names", sorted(names))
        if type(found) is not dict:
            raise NameError("the program tells no names")
        return {name: self._as_class(value) if name[:1].isupper() else value for name, value in found.items()}

    def _as_class(self, value: Any) -> Any:
        """Take an object as a class, which its name begins like, so that tests may use the class's objects as operands.

        A program cannot choose that name, so it cannot put such a class in the place of a function.
        """
        return self.program.become(value, remote_objects.Maker) if type(value) is remote_objects.Remote else value

    def start(self, prepare: Callable[[], object]) -> Result | None:
        """Run the program's module, then `prepare`; returns the failure of either, which then counts for every test."""
        try:
            self.program.ask("prepare")
        except Exception as error:
            raise InvalidError(f"the preamble fails: {raising.described(error)[1]}") from None
        except connection.Gone:
            pass
        for step in (functools.partial(self.program.ask, "load"), prepare):
            found = self.result(step, lambda: None)
            if found[0] != "passed":
                return found
        self.asked = False
        return None

    def result(self, test: Callable[[], object], refresh: Callable[[], object]) -> Result:
        """Run a test and return its result. Raises InvalidError if it fails without having asked the program."""
        asked = self.program.questions
        try:
            refresh()
            asked = self.program.questions
            test()
            result, message = "passed", ""
        except InvalidError:
            raise
        except BaseException as error:
            result, message = self._failure(error, asked=self.knows_data or self.program.questions > asked)
        self.any_failed |= result != "passed"
        self.asked |= self.knows_data or self.program.questions > asked
        if self.program.gone:  # this counts even if the test caught the exception
            result, message = "error", "the program has ended"
        return result, message

    def _failure(self, error: BaseException, *, asked: bool) -> Result:
        name, text = raising.described(error)
        message = text if name == "Exception" and text else f"{name}: {text}"
        if isinstance(error, connection.Gone | AbsentError) or raising.was_raised_remotely(error):
            return "error", message
        by_itself = isinstance(error, ImportError | wire.WireError)
        by_itself |= not (asked or isinstance(error, AssertionError))
        if by_itself and not self.any_failed:  # it may build on a test before it
            raise InvalidError(f"a test fails by itself: {message}")
        return "wrong", message  # an assertion, or an answer of a kind that the test cannot use


class Calls:
    """A suite of function calls, each with the list of right results."""

    def __init__(self, runner: TestRunner, payload: dict):
        self._runner, self._tolerance = runner, payload["float_tolerance"]
        self.tests = [functools.partial(self._call, **call) for call in payload["calls"]]

    def prepare(self) -> None:
        """Do nothing: calls need no preparation."""

    refresh = prepare

    def hold(self, run: Callable[[], object]) -> None:
        """Run the tests."""
        run()

    def _call(
        self,
        name: str,
        args: list[Any],
        expected: list[Any],
        kwargs: dict[str, Any] | None = None,
        numbered: tuple[int, ...] = (),
    ) -> None:
        for place in numbered:
            args[place] = {int(key): value for key, value in args[place].items()}
        try:
            function = testcode.entry(name, self._runner.objects(testcode.owners(name)))
        except (NameError, AttributeError) as error:
            raise AbsentError(str(error)) from None
        value = function(*args, **(kwargs or {}))
        if not any(testcode.same(one, value, self._tolerance) for one in expected):
            raise AssertionError(f"gave {_written(value)}, expected {_written(expected[0])}, for {_written(args)}")


class Snippets:
    """A suite of test code, whose namespace holds the program's data, and a Remote for each of its other objects.

    helpers: code that stood before the program, such as a prompt's; the tests use the definitions of this code, even if
    the program defines the same names.
    """

    def __init__(self, runner: TestRunner, payload: dict):
        self._runner, self._entry_point = runner, payload.get("entry_point")
        self._setup = payload.get("setup") or ""
        self._helpers = payload["helpers"] if testcode.compiles(payload.get("helpers") or "(") else ""
        self._namespace: dict[str, Any] = {"__name__": testcode.MODULE}
        self._sources = sources = [self._setup, *payload["tests"]]
        self._session = collected.Session()
        try:
            items = [testcode.Item(source, self._namespace, self._session) for source in payload["tests"]]
            self._names = testcode.names(*sources)
            provided = testcode.names(self._helpers).bound
        except testcode.COMPILE_ERRORS as error:
            raise InvalidError(f"the tests do not compile: {error}") from None
        self.tests = [test for item in items for test in item.tests()]
        self._uses_hypothesis = any("hypothesis" in source for source in sources)
        self._uses_dataclasses = any("dataclasses" in source for source in sources)
        self._needs_pytest = any(item.needs_pytest for item in items)
        self._checks = any(item.checks for item in items)
        if self._checks and not self._entry_point:
            raise InvalidError("the tests define check(candidate), but no entry_point says what the candidate is")
        self._imports = {
            name: path
            for name, path in testcode.helpers(self._names).items()
            if name not in provided | self._stubs().keys()
        }
        programs: dict[str, str | None] = dict.fromkeys(self._names.free - provided - self._imports.keys())
        self._programs = programs | self._stubs()

    def _stubs(self) -> dict[str, str]:
        """Return the names that stand for the entry point: `candidate`, and its own name.

        If that name is a builtin's, such as sum, then tests that use `candidate` mean the builtin by it.
        """
        entry = self._entry_point
        if not entry:
            return {}
        stubs = {"candidate": entry, entry: entry}
        if entry in testcode.BUILTINS and (self._checks or "candidate" in self._names.used):
            del stubs[entry]
        return {name: path for name, path in stubs.items() if name not in self._names.bound}

    def prepare(self) -> None:
        """Fill the namespace, then run the setup in it."""
        if self._uses_dataclasses:  # before patches, which tell the program what is replaced from then on
            remote_objects.reach_dataclasses()
        self._runner.patches = patches.Patches(*self._sources)
        sys.modules.update({name: ProgramModule(name, self._runner.program, self._imported) for name in PROGRAMS})
        if self._uses_hypothesis:
            testcode.settle_hypothesis()
        exec(compile(self._helpers, "<helpers>", "exec", dont_inherit=True), self._namespace)
        self._namespace.update({name: testcode.imported(path) for name, path in self._imports.items()})
        if "type" in self._names.used - self._names.bound:
            self._namespace["type"] = remote_objects.TypeOf
        if self._setup:
            self.refresh()
            exec(compile(self._setup, "<setup>", "exec", dont_inherit=True), self._namespace)

    def refresh(self) -> None:
        """Ask for the program's objects again, since the program may have changed its variables."""
        needed = [testcode.owners(path) if path else {name} for name, path in self._programs.items()]
        objects = self._runner.objects(set().union(*needed)) if needed else {}
        for name, path in self._programs.items():
            self._namespace[name] = self._found(name, path, objects)

    def _imported(self, name: str) -> Any:
        return self._found(name, None, self._runner.objects([name]))

    def hold(self, run: Callable[[], object]) -> None:
        """Run the tests, inside of pytest if they need it."""
        if self._needs_pytest:
            self._session.hold(run)
        else:
            run()

    def _found(self, name: str, path: str | None, objects: testcode.Objects) -> Any:
        try:
            value = testcode.entry(path, objects) if path else objects[name]
        except KeyError:
            value = Absent(f"the program defines no {name}")
        except (NameError, AttributeError) as error:
            value = Absent(str(error))
        self._runner.knows_data |= not callable(value)
        return value


class ProgramModule(types.ModuleType):
    """The module from which tests import the program's objects, and in which they replace them."""

    def __init__(self, name: str, program: connection.Connection, found: Callable[[str], Any]):
        super().__init__(name)
        vars(self).update(_program=program, _found=found, _deleted=set())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self._deleted:
            raise AttributeError(name)
        return self._found(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__"):  # the import system's own
            super().__setattr__(name, value)
        else:
            setattr(self._program.ask("module"), name, value)
            self._deleted.discard(name)

    def __delattr__(self, name: str) -> None:
        delattr(self._program.ask("module"), name)
        self._deleted.add(name)


class Absent:
    """A stand-in for an object that the program does not define; its use is the program's error, not the test's."""

    def __init__(self, message: str):
        self._message = message

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AbsentError(self._message)

    def __getattr__(self, name: str) -> Any:
        raise AbsentError(self._message)

    __iter__ = __len__ = __bool__ = __getitem__ = __call__


def _written(value: Any) -> str:
    """Return plain data as JSON; anything else is not asked what it is."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return "an object"


def _lends(value: Any) -> bool:
    kind = type(value)
    moves = any(hasattr(kind, name) for name in ("__next__", "__await__", "__anext__"))
    return callable(value) or moves or kind.__module__ == testcode.MODULE or kind in LENT_KINDS


def _hides(error: BaseException) -> bool:
    """Return whether an exception could tell an expected result, as those do by which tests fail.

    Programs know the exceptions of Python, of its library, and of the tests' own classes.
    """
    kind = type(error)
    plain = values.known(values.name(kind)) is kind or kind.__module__ == testcode.MODULE
    return isinstance(error, AssertionError) or not (plain or raising.original(error) is not None)


def _operate_for(runner: TestRunner) -> Callable[[str, list[Any], dict[str, Any]], Any]:
    """Return the function that does the program's operations on lent objects, without a way to the tests' data."""

    tellings = {"write": _write, "files": lambda changes: runner.folder.apply(changes)}

    def operate(operation: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if operation in tellings:
            return tellings[operation](*args)
        if not args or not runner.program.lent(args[0]):
            raise TypeError("not an object of the tests")
        if operation == "format" or (operation in ("get", "set", "delete") and not _is_open(operation, *args[:2])):
            raise AttributeError("not for programs")
        return remote_objects.OPERATIONS[operation](*args, **kwargs)

    return operate


def _write(place: int, text: str) -> None:
    """Print what the program has printed, where the tests may look for it."""
    if type(text) is not str:
        raise TypeError("expected text")
    print(text, end="", file={1: sys.stdout, 2: sys.stderr}[place])


def _is_open(operation: str, value: Any, name: Any = "_") -> bool:
    """Return whether programs may use this attribute: a public one of the tests' object, or, read only, of a class.

    Of a mock, programs may use the parts that stand for an object's, not what the mock has recorded or will return.
    """
    if type(name) is not str or name.startswith("_"):
        return name == "__name__" and operation == "get"
    if isinstance(value, type):
        return value.__module__ == testcode.MODULE and operation == "get"
    if type(value).__module__ == "unittest.mock":
        return name not in dir(sys.modules["unittest.mock"].Mock())
    return type(value).__module__ == testcode.MODULE or type(value) in LENT_KINDS

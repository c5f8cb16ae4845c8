"""The formats of a data row's tests, as public data sets spell them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StdinTests:
    """Tests that run the program: pairs of its input on stdin and the output that it must print."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Call:
    """A function's arguments, and the results of which any one is right."""

    args: tuple[Any, ...]
    expected: tuple[Any, ...]


@dataclass(frozen=True)
class CallTests:
    """Tests that call the function `name`; all arguments and results are JSON data."""

    name: str
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class CodeTests:
    """Test code: asserts, `check(candidate)`, functions `test_*` or unittest classes; entry_point names the candidate.

    The code uses the program's objects by name, or imports them from `solution`.
    """

    snippets: tuple[str, ...]
    setup: str = ""
    entry_point: str | None = None


Tests = StdinTests | CallTests | CodeTests

_ENTRY_POINT = re.compile(r"[^\W\d]\w*(\(\)\.[^\W\d]\w*|\.[^\W\d]\w*)?")
_KINDS = {"stdin": "stdin", "stdin_stdout": "stdin", "functional": "call", "function_call": "call"}


def read_tests(tests: Any, *, setup: Any = None, entry_point: Any = None) -> Tests:
    """Return the tests that a row's columns hold, which may have these formats:

        {"inputs": [...], "outputs": [...]}                       stdin and stdout; a list of lines is joined
        {"inputs": ..., "outputs": ..., "fn_name": name}          calls: lists of arguments, or a line of JSON for each
        {"input": [...], "output": [...]}                         likewise
        [{"input": ..., "output": ..., "testtype": ...}, ...]     likewise; "fn_name" in each, or the entry point
        ["assert ...", ...], or a text of Python                  test code, after `setup`

    All formats but test code may also be JSON text. entry_point: "name", "Class.name" or "Class().name". Raises
    ValueError, with the reason, for any other format and for an empty list of tests.
    """
    entry_point = _entry_point(entry_point)
    value = _plain(tests)
    if isinstance(value, str):
        loaded = _json(value)
        if loaded is _NOT_JSON and value.lstrip().startswith(("{", "[")):
            raise ValueError(f"tests that look like JSON and are not: {_shown(value)}")
        if not isinstance(loaded, dict | list):
            return CodeTests((_text(value, "the test code"),), _setup(setup), entry_point)
        value = loaded
    if isinstance(value, dict):
        return _from_lists(value, entry_point)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return CodeTests(tuple(_text(one, "a test") for one in value), _setup(setup), entry_point)
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return _from_cases(value, entry_point)
    if isinstance(value, list) and not value:
        raise ValueError("there are no tests")
    raise ValueError(f"tests of no known format: {_shown(value)}")


def _from_lists(value: dict[str, Any], entry_point: str | None) -> Tests:
    for inputs, outputs in (("inputs", "outputs"), ("input", "output")):
        if inputs in value and outputs in value:
            break
    else:
        raise ValueError(f"tests with the keys {sorted(value)}: expected inputs and outputs")
    given, expected = value[inputs], value[outputs]
    if not isinstance(given, list) or not isinstance(expected, list) or len(given) != len(expected):
        raise ValueError(f"{inputs} and {outputs} must be lists of one length: {_shown(given)}, {_shown(expected)}")
    if not given:
        raise ValueError("there are no tests")
    name = _entry_point(value.get("fn_name")) or entry_point
    pairs = list(zip(given, expected, strict=True))
    return _calls(name, pairs) if name else _runs(pairs)


def _from_cases(cases: list[dict[str, Any]], entry_point: str | None) -> Tests:
    kinds, names, pairs = set(), set(), []
    for case in cases:
        if "input" not in case or "output" not in case:
            raise ValueError(f"a test with the keys {sorted(case)}: expected input and output")
        name = _entry_point(case.get("fn_name")) or entry_point
        kind = case.get("testtype", case.get("type", "functional" if name else "stdin"))
        if kind not in _KINDS:
            raise ValueError(f"a test of the type {kind!r}: expected one of {', '.join(_KINDS)}")
        kinds.add(_KINDS[kind])
        names.add(name)
        pairs.append((case["input"], case["output"]))
    if len(kinds) > 1 or (kinds == {"call"} and len(names) > 1):
        raise ValueError("tests of several types or functions in one row")
    if kinds == {"stdin"}:
        return _runs(pairs)
    (name,) = names
    if not name:
        raise ValueError("calls of a function that neither fn_name nor the entry point names")
    return _calls(name, pairs)


def _runs(pairs: Sequence[tuple[Any, Any]]) -> StdinTests:
    return StdinTests(tuple((_lines(given, "an input"), _lines(expected, "an output")) for given, expected in pairs))


def _lines(value: Any, what: str) -> str:
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"{what} for stdin is {_shown(value)}, expected a text or a list of lines")
    return value


def _calls(name: str, pairs: Sequence[tuple[Any, Any]]) -> CallTests:
    return CallTests(name, tuple(_call(given, expected) for given, expected in pairs))


def _call(given: Any, expected: Any) -> Call:
    """Read one call: a list of arguments and the result, bare or in a list of one; or a line of JSON per argument."""
    if isinstance(given, list):
        wrapped = isinstance(expected, list) and len(expected) == 1
        return Call(tuple(given), (expected, expected[0]) if wrapped else (expected,))
    if not isinstance(given, str):
        raise ValueError(f"a call's input is {_shown(given)}, expected a list of arguments or a line of JSON for each")
    args = [_json(line) for line in given.split("\n") if line.strip()]
    result = _json(expected) if isinstance(expected, str) else expected
    if _NOT_JSON in args or result is _NOT_JSON:
        raise ValueError(f"a call's input or output is not JSON: {_shown(given)}, {_shown(expected)}")
    return Call(tuple(args), (result,))


def _setup(value: Any) -> str:
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"the setup is {_shown(value)}, expected a text or a list of lines")
    return value


def _entry_point(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _ENTRY_POINT.fullmatch(value):
        raise ValueError(f"the entry point is {_shown(value)}, expected the name of a function")
    return value


def _text(value: str, what: str) -> str:
    if not value.strip():
        raise ValueError(f"{what} is empty")
    return value


_NOT_JSON = object()


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _plain(value: Any) -> Any:
    """Turn arrays into lists and mappings into dicts at any depth; raises ValueError for data that JSON lacks."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"tests hold {_shown(value)}, which JSON does not have")


def _shown(value: Any) -> str:
    return repr(value)[:100]

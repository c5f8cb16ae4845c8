"""The formats of a data row's tests, as public data sets spell them."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmrl.rewards.code.packed import is_packed, unpacked


@dataclass(frozen=True)
class StdinTests:
    """Tests that run the program: pairs of its input on stdin and the output that it must print."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Call:
    """A function's arguments, and the results of which any one is right."""

    args: tuple[Any, ...]
    expected: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CallTests:
    """Tests that call the function `name`; all values are JSON data, but a mapping's keys may be integers."""

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

CASES = (
    *("assert_case", "assert_cases", "test_cases", "tests", "test_list", "official_tests", "test_code", "test"),
    *("functional", "input_output", "ground_truth"),
)
"""Keys of a mapping under which its tests are, whatever their format; an earlier key goes first."""

INPUTS = ("inputs", "input", "stdin")
OUTPUTS = ("outputs", "output", "expected_output", "expected_outputs", "stdout", "expected")
NAMES = ("fn_name", "func_name", "function_name", "entry_point")
"""Keys of the name of the function under test, in a mapping of tests, in a single test, or in its `metadata`."""

SETUPS = ("test_setup_code", "setup_code", "test_imports", "setup", "import_prefix")
KINDS = {"stdin": "stdin", "stdin_stdout": "stdin", "functional": "call", "function_call": "call"}

_ENTRY_POINT = re.compile(r"[^\W\d]\w*(\(\)\.[^\W\d]\w*|\.[^\W\d]\w*)?")
_BEGUN = re.compile(
    r"^(?:class[ \t]+(?P<owner>\w+)|[ \t]*(?:async[ \t]+)?def[ \t]+(?P<name>\w+)[ \t]*\()", re.MULTILINE
)
_PYTHON = re.compile(r"py(thon)?[\s\d.]*", re.IGNORECASE)
_INTEGER = re.compile(r"-?[0-9]+")
_NOTHING = object()
_PLAIN = frozenset({type(None), bool, int, float, str})
_NOT_LITERAL = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
"""What reading a text as a Python literal may raise."""


def read_tests(tests: Any, *, setup: Any = None, entry_point: Any = None) -> Tests:
    """Return the tests that a row's columns hold, which may have these formats:

        {"inputs": [...], "outputs": [...]}                       stdin and stdout; a list of lines is joined
        {"inputs": ..., "outputs": ..., "fn_name": name}          calls: lists of arguments, or a line of JSON for each
        {"input": [...], "output": [...]}                         likewise
        [{"input": ..., "output": ..., "testtype": ...}, ...]     likewise; "fn_name" in each, or the entry point
        ["assert ...", ...], or a text of Python                  test code, after `setup`
        {"test_cases": any of these, "fn_name": ...}              a mapping around them, with a key of CASES

    A call's input may be a mapping of keyword arguments. A list may be a mapping with the keys 0, 1, ... All formats
    but test code may also be JSON text, Python literals, or packed as in llmrl/rewards/code/packed.py. entry_point:
    "name", "Class.name" or "Class().name", code that begins the function, or a mapping (or its JSON) with a key of
    NAMES. Raises ValueError, with the reason, for any other format and for an empty list of tests. Sources: the
    loaders of APPS, TACO, LiveCodeBench, MBPP and HumanEval.
    """
    return _read(_plain(tests), _joined(_plain(setup)), _entry_point(_plain(entry_point)))


@contextlib.contextmanager
def any_digits() -> Iterator[None]:
    """Let integers of any length be read and written meanwhile."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(limit)


def _read(value: Any, setup: str, name: str | None) -> Tests:
    if isinstance(value, str):
        loaded = _structure(value)
        if not isinstance(loaded, dict | list):
            return CodeTests((_text(value, "the test code"),), setup, name)
        value = loaded
    value = _listed(value)
    if isinstance(value, dict):
        return _from_mapping(value, setup, name)
    if isinstance(value, list) and value:
        if all(isinstance(one, str) for one in value):
            cases = [_loaded(one) for one in value]
            if not all(isinstance(case, dict) for case in cases):
                return CodeTests(tuple(_text(one, "a test") for one in value), setup, name)
            value = cases
        if all(isinstance(one, dict) for one in value):
            return _from_cases(value, name)
    if value == []:
        raise ValueError("there are no tests")
    raise ValueError(f"tests of no known format: {_shown(value)}")


def _structure(text: str) -> Any:
    """Return the value that a text of JSON, a Python literal or packed tests hold; _NOTHING for test code."""
    packed = is_packed(text)
    text = (unpacked(text) if packed else text).lstrip()
    value = _value(text) if text.startswith(("{", "[", '"')) else _NOTHING
    if isinstance(value, str):  # JSON text within JSON text
        value = _value(value)
    if value is _NOTHING and (packed or text.startswith(("{", "["))):
        raise ValueError(f"tests that look like JSON and are not: {_shown(text)}")
    return value


def _from_mapping(value: dict[Any, Any], setup: str, name: str | None) -> Tests:
    language = value.get("language")
    if language is not None and not _PYTHON.fullmatch(str(language)):
        raise ValueError(f"tests of programs in {_shown(language)}, expected python")
    name = _function(value) or name
    setup = "\n".join(filter(None, [setup, *map(_joined, _held(value, SETUPS))]))
    inner = _held(value, CASES)
    if inner:
        return _read(inner[0], setup, name)
    if isinstance(value.get("input"), str) and "output" in value:
        return _from_cases([value], name)
    inputs, outputs = (_listed(_loaded(one)) for one in _sides(value, "tests", "inputs and outputs"))
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError(f"inputs and outputs must be lists of one length: {_shown(inputs)}, {_shown(outputs)}")
    if not inputs:
        raise ValueError("there are no tests")
    pairs = list(zip(inputs, outputs, strict=True))
    return _calls(name, pairs) if name else _runs(pairs)


def _from_cases(cases: list[dict[Any, Any]], entry_point: str | None) -> Tests:
    kinds, names, pairs = set(), set(), []
    for case in cases:
        pairs.append(_sides(case, "a test", "input and output"))
        name = _function(case) or entry_point
        kind = case.get("testtype") or case.get("type") or ("functional" if name else "stdin")
        if kind not in KINDS:
            raise ValueError(f"a test of the type {kind!r}: expected one of {', '.join(KINDS)}")
        kinds.add(KINDS[kind])
        names.add(name)
    if len(kinds) > 1 or (kinds == {"call"} and len(names) > 1):
        raise ValueError("tests of several types or functions in one row")
    if kinds == {"stdin"}:
        return _runs(pairs)
    (name,) = names
    if not name:
        raise ValueError("calls of a function that neither fn_name nor the entry point names")
    return _calls(name, pairs)


def _sides(value: dict[Any, Any], what: str, expected: str) -> tuple[Any, Any]:
    given, results = [key for key in INPUTS if key in value], [key for key in OUTPUTS if key in value]
    if not given or not results:
        raise ValueError(f"{what} with the keys {sorted(map(str, value))}: expected {expected}")
    return value[given[0]], value[results[0]]


def _runs(pairs: Sequence[tuple[Any, Any]]) -> StdinTests:
    return StdinTests(tuple((_lines(given, "an input"), _lines(expected, "an output")) for given, expected in pairs))


def _lines(value: Any, what: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    raise ValueError(f"{what} for stdin is {_shown(value)}, expected a text or a list of lines")


def _calls(name: str, pairs: Sequence[tuple[Any, Any]]) -> CallTests:
    return CallTests(name, tuple(_call(given, expected) for given, expected in pairs))


def _call(given: Any, expected: Any) -> Call:
    """Read one call: a list of arguments or a mapping of keyword arguments, and the result, bare or in a list of one.

    A text has a line of JSON for each argument, or Python's literals as a call has them: `nums = [1, 2], k = 3`.
    """
    wrapped = isinstance(expected, list) and len(expected) == 1
    if isinstance(given, dict) and all(isinstance(key, str) and key.isidentifier() for key in given):
        return Call((), (expected, expected[0]) if wrapped else (expected,), given)
    if isinstance(given, list | dict):
        args = given if isinstance(given, list) else [given]
        return Call(tuple(map(_numbered, args)), (expected, expected[0]) if wrapped else (expected,))
    if not isinstance(given, str):
        raise ValueError(f"a call's input is {_shown(given)}, expected a list of arguments or a line of JSON for each")
    args, kwargs = [_value(line) for line in given.split("\n") if line.strip()], {}
    if _NOTHING in args:
        args, kwargs = _literals(given)
    result = _value(expected) if isinstance(expected, str) else expected
    if _NOTHING in args or result is _NOTHING:
        raise ValueError(f"a call's input or output is not JSON: {_shown(given)}, {_shown(expected)}")
    return Call(tuple(map(_numbered, args)), (result,), kwargs)


def _numbered(argument: Any) -> Any:
    """Turn a mapping's keys into integers if all are texts of integers, as APPS means them: JSON has only texts."""
    if isinstance(argument, dict) and argument and all(_INTEGER.fullmatch(str(key)) for key in argument):
        return {int(key): value for key, value in argument.items()}
    return argument


def _literals(text: str) -> tuple[list[Any], dict[str, Any]]:
    try:
        call = ast.parse(f"f({text.strip()})", mode="eval").body
        if isinstance(call, ast.Call) and all(one.arg for one in call.keywords):
            args = [_plain(ast.literal_eval(one)) for one in call.args]
            return args, {str(one.arg): _plain(ast.literal_eval(one.value)) for one in call.keywords}
    except _NOT_LITERAL:
        pass
    return [_NOTHING], {}


def _held(value: dict[Any, Any], keys: Sequence[str]) -> list[Any]:
    return [value[key] for key in keys if key in value and value[key] is not None]


def _function(value: dict[Any, Any]) -> str | None:
    named = next(filter(None, map(_entry_point, _held(value, NAMES))), None)
    inner = _loaded(value.get("metadata"))
    return named or (_function(inner) if isinstance(inner, dict) else None)


def _entry_point(value: Any) -> str | None:
    value = _loaded(value)
    if isinstance(value, dict):
        return _function(value)
    if value is None or value == "":
        return None
    if isinstance(value, str) and _ENTRY_POINT.fullmatch(value):
        return value
    begun = _begun(value) if isinstance(value, str) else None
    if begun is None:
        raise ValueError(f"the entry point is {_shown(value)}, expected the name of a function")
    return begun


def _begun(code: str) -> str | None:
    """Return the last function that a text of code begins, as an entry point; a method's class is made anew."""
    owner = found = None
    for match in _BEGUN.finditer(code):
        if match["owner"]:
            owner = match["owner"]
        elif not match["name"].startswith("__"):
            inside = owner is not None and match[0][0].isspace()
            found = f"{owner}().{match['name']}" if inside else match["name"]
    return found


def _joined(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if not isinstance(value, str):
        raise ValueError(f"the setup is {_shown(value)}, expected a text or a list of lines")
    return value


def _text(value: str, what: str) -> str:
    if not value.strip():
        raise ValueError(f"{what} is empty")
    return value


def _listed(value: Any) -> Any:
    """Turn a mapping with the keys 0, 1, ... into the list of its values."""
    if isinstance(value, dict) and {"0", 0} & value.keys() and {*map(str, value)} == {*map(str, range(len(value)))}:
        return [value[key] for key in sorted(value, key=int)]
    return value


def _loaded(value: Any) -> Any:
    """Read a text of a mapping or a list."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    found = _value(value)
    return value if found is _NOTHING else found


@any_digits()
def _value(text: str) -> Any:
    """Return the value of JSON text or of a Python literal; _NOTHING for other texts."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return _plain(ast.literal_eval(text.strip()))
    except _NOT_LITERAL:
        return _NOTHING


def _plain(value: Any) -> Any:
    """Turn arrays into lists and mappings into dicts at any depth; raises ValueError for data that JSON lacks."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if type(value) in _PLAIN:
        return value
    if isinstance(value, list | tuple):
        return [item if type(item) in _PLAIN else _plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key if type(key) is int else str(key): _plain(item) for key, item in value.items()}
    raise ValueError(f"tests hold {_shown(value)}, which JSON does not have")


def _shown(value: Any) -> str:
    return repr(value)[:100]

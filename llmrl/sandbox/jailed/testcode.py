"""Reading of test code as data sets spell it: finds the tests in a text, and the owners of the names that it uses."""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import re
import symtable
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import collected
import coroutines

COMPILE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)
AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
MODULE = "tests"
"""The name of the module in which the tests run."""

BUILTINS = frozenset(vars(builtins))
HELPERS = {
    "np": "numpy",
    "pd": "pandas",
    "isclose": "math:isclose",
    "deepcopy": "copy:deepcopy",
    "Counter": "collections:Counter",
    "OrderedDict": "collections:OrderedDict",
    "defaultdict": "collections:defaultdict",
    "deque": "collections:deque",
    "Decimal": "decimal:Decimal",
    "Fraction": "fractions:Fraction",
}
"""Library names that tests use without importing them. They never mean the program's objects, which could cheat."""

_ENTRY = re.compile(r"(?P<owner>\w+)(?P<made>\(\))?(?:\.(?P<method>\w+))?")

Run = Callable[[], object]
Objects = Mapping[str, Any]
"""The program's objects by name, without those that it does not define."""


@dataclass(frozen=True)
class Names:
    """A module's names. bound: those that it defines or imports; used: those that it reads; called: all f of f(...)."""

    bound: frozenset[str]
    used: frozenset[str]
    called: frozenset[str]

    @property
    def free(self) -> frozenset[str]:
        """The used names that neither the module nor Python defines."""
        return self.used - self.bound - BUILTINS


def compiles(source: str) -> bool:
    """Return whether the text is valid Python."""
    try:
        compile(source, "<tests>", "exec", dont_inherit=True)
    except COMPILE_ERRORS:
        return False
    return True


@functools.cache
def parsed(source: str) -> ast.Module:
    """Return the text's tree, which nobody may change; raises one of COMPILE_ERRORS."""
    return ast.parse(source)


def names(*sources: str) -> Names:
    """Return the names of a module that consists of these texts; raises one of COMPILE_ERRORS."""
    bound, used, called = set(), set(), set()
    for source in filter(None, sources):
        tables = list(_tables(symtable.symtable(source, "<tests>", "exec")))
        symbols = [symbol for table in tables for symbol in table.get_symbols() if symbol.is_global()]
        symbols += [symbol for symbol in tables[0].get_symbols() if not symbol.is_global()]
        bound |= {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}
        used |= {symbol.get_name() for symbol in symbols if symbol.is_referenced()}
        calls = (node.func for node in ast.walk(parsed(source)) if isinstance(node, ast.Call))
        called |= {function.id for function in calls if isinstance(function, ast.Name)}
    return Names(frozenset(bound), frozenset(used), frozenset(called))


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def helpers(used: Names) -> dict[str, str]:
    """Return the free names that mean a library's "module" or "module:object", not an object of the program."""
    found = {name: HELPERS[name] for name in used.free & HELPERS.keys()}
    for name in used.free - used.called - found.keys():
        if name in sys.stdlib_module_names:
            found[name] = name
        elif name in typing.__all__:
            found[name] = f"typing:{name}"
    return found


def imported(path: str) -> Any:
    """Import a module, such as "copy", or an object of a module, such as "copy:deepcopy"."""
    module, _, name = path.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


def owners(path: str) -> set[str]:
    """Return the names in the program that `entry` needs for this path."""
    parts = _entry_parts(path)
    return {parts["owner"]} if parts["made"] or parts["method"] else {"Solution", path}


def entry(path: str, objects: Objects) -> Any:
    """Return the function under test: "add", "Adder.add", or "Adder().add", which makes a new Adder for each call.

    A bare name may also be a method of a class Solution, as LeetCode's problems have it. Raises NameError or
    AttributeError if the program does not define it.
    """
    parts = _entry_parts(path)
    owner, method = parts["owner"], parts["method"]
    if parts["made"]:
        return _on_a_new(_object(owner, objects), method)
    if method:
        return getattr(_object(owner, objects), method)
    if hasattr(objects.get("Solution"), path):
        return _on_a_new(objects["Solution"], path)
    return _object(path, objects)


def _entry_parts(path: str) -> re.Match[str]:
    parts = _ENTRY.fullmatch(path)
    if parts is None:
        raise ValueError(f"{path!r} names no function")
    return parts


def _object(name: str, objects: Objects) -> Any:
    if name not in objects:
        raise NameError(f"the program defines no {name}")
    return objects[name]


def _on_a_new(owner: Callable[[], Any], method: str) -> Callable[..., Any]:
    return lambda *args, **kwargs: getattr(owner(), method)(*args, **kwargs)


class Item:
    """One text of test code, which runs in a namespace that all texts share.

    The text's tests are its functions `test*` and the methods `test*` of its classes. A text without such functions is
    one test as a whole, which calls `check(candidate)` if the text defines `check` and does not call it itself. Raises
    one of COMPILE_ERRORS.
    """

    def __init__(self, source: str, namespace: dict[str, Any], session: collected.Session):
        tree = parsed(source)
        self._code: types.CodeType = compile(tree, "<tests>", "exec", AWAIT, dont_inherit=True)
        self._namespace, self._session = namespace, session
        self._functions = _test_names(tree.body)
        cases = [node for node in tree.body if isinstance(node, ast.ClassDef) and _is_case(node)]
        self._methods = [(case.name, name) for case in cases for name in _test_names(case.body)]
        self.needs_pytest = bool(self._functions or self._methods) and collected.is_needed(tree)
        defines = any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body)
        self.checks = defines and not any(_calls_check(node) for node in tree.body)

    def tests(self) -> list[Run]:
        names = [(None, name) for name in self._functions] + self._methods
        if self.needs_pytest:
            return [functools.partial(self._collected, *one) for one in names]
        found: list[Run] = [functools.partial(self._function, name) for name in self._functions]
        found += [functools.partial(self._method, *names) for names in self._methods]
        return found or [self._whole]

    def _whole(self) -> None:
        self._define()
        if self.checks:
            self._namespace["check"](self._namespace["candidate"])

    def _function(self, name: str) -> None:
        self._define()
        _finished(self._namespace[name]())

    def _method(self, owner: str, name: str) -> None:
        self._define()
        case = self._namespace[owner]
        if hasattr(case, "debug"):  # unittest's debug() runs one test without catching its exceptions
            case.setUpClass()
            case(name).debug()
        else:
            _finished(getattr(case(), name)())

    def _collected(self, owner: str | None, name: str) -> None:
        """Run a function's tests, one for each set of its parameters."""
        self._define()
        following = [*self._items[1:], None]
        own = [
            (item, after)
            for item, after in zip(self._items, following, strict=True)
            if (getattr(item.cls, "__name__", None), item.originalname) == (owner, name)
        ]
        if not own:
            raise RuntimeError(f"pytest finds no test {name}")
        for item, after in own:
            self._session.run(item, after)

    @functools.cached_property
    def _items(self) -> list[Any]:
        module = types.ModuleType(MODULE)
        vars(module).update({name: self._namespace[name] for name in self._code.co_names if name in self._namespace})
        return self._session.items(module)

    @functools.cached_property
    def _defined(self) -> BaseException | None:
        try:
            _finished(eval(self._code, self._namespace))
        except BaseException as error:
            return error
        return None

    def _define(self) -> None:
        """Run the text once; if that raises, each of its tests raises the same exception."""
        if self._defined is not None:
            raise self._defined


def _finished(value: Any) -> None:
    if isinstance(value, types.CoroutineType):
        coroutines.finish(value)


def _test_names(body: list[ast.stmt]) -> list[str]:
    functions = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.name for node in functions if node.name.startswith("test")]


def _calls_check(node: ast.stmt) -> bool:
    """Return whether running a statement calls `check`, except inside of what it only defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):  # the tests' module is not __main__
        return False
    calls = (part.func for part in ast.walk(node) if isinstance(part, ast.Call))
    return any(isinstance(function, ast.Name) and function.id == "check" for function in calls)


def _is_case(node: ast.ClassDef) -> bool:
    return node.name.startswith("Test") or any(ast.unparse(base).endswith("TestCase") for base in node.bases)


def settle_hypothesis() -> None:
    """Make hypothesis generate the same examples each time, write no files and set no deadline."""
    hypothesis = importlib.import_module("hypothesis")
    hypothesis.settings.register_profile(
        MODULE,
        database=None,
        deadline=None,
        derandomize=True,
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile(MODULE)


def same(expected: Any, value: Any, tolerance: float) -> bool:
    """Return whether a call's result is the expected JSON value; a tuple counts as a list, and a key as its text;
    numbers and arrays of numpy count as plain ones.

    tolerance: the relative or absolute difference that two numbers may have if one of them is a float.
    """
    if type(value).__module__ == "numpy":
        value = value.tolist()
    kinds = type(expected), type(value)
    if kinds[0] is list and isinstance(value, list | tuple):
        pairs = zip(expected, value, strict=False)
        return len(expected) == len(value) and all(same(one, other, tolerance) for one, other in pairs)
    if kinds[0] is dict and isinstance(value, dict):
        value = {key if type(key) is str else str(key): item for key, item in value.items()}
        return expected.keys() == value.keys() and all(same(expected[key], value[key], tolerance) for key in expected)
    if float in kinds and set(kinds) <= {int, float}:
        return expected == value or _near(expected, value, tolerance)
    return expected == value


def _near(expected: float, value: float, tolerance: float) -> bool:
    try:
        return abs(expected - value) <= tolerance * max(1.0, abs(expected))
    except OverflowError:  # one of the numbers is an integer larger than any float
        return False

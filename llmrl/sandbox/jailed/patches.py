"""The replacements that tests make for a while: names in library modules, such as input, and the process's environment.

The program's process has modules of its own. Before the program is asked anything, it is told what has been replaced
since, and it then calls the tests' replacement.
"""

from __future__ import annotations

import ast
import importlib
import operator
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import testcode

PATCHERS = ("patch", "setattr", "delattr", "multiple")
"""The functions whose first argument names what they replace."""

SYSTEM = ("stdin", "argv", "exit", "platform")
"""The names in sys that are told; the others belong to the interpreter, or are streams that tests have of their own."""


class Patches:
    """The replacements in the modules of test code. Making one imports them; they must not have replacements yet."""

    def __init__(self, *sources: str):
        modules = ("builtins", *watched(*sources))
        self._seeds: list[tuple[Any, ...]] = []
        if "random" in modules:
            self._watch_seeds("random")
        if any("random.seed" in source and "numpy" in source for source in sources):
            self._watch_seeds("numpy.random")
        named: dict[str, Mapping[str, Any]] = {name: vars(importlib.import_module(name)) for name in modules}
        self._watches_environment = any("env" in source or "chdir" in source for source in sources)
        self._watched = [(name, names, dict(names)) for name, names in named.items()]
        system: Mapping[str, Any] = vars(sys)
        self._watched.append(("sys", system, {name: system[name] for name in SYSTEM}))
        self._told: dict[tuple[str, str], Any] = {}
        self._environment, self._place = _environment(), _place()

    def tell(self, ask: Callable[..., Any]) -> None:
        """Tell what has changed since the last time."""
        replaced: dict[tuple[str, str], Any] = {}
        for module, names, originals in self._watched:
            now = operator.itemgetter(*originals)(names) if originals.keys() <= names.keys() else ()
            if any(map(operator.is_not, now, originals.values())):
                pairs = zip(originals, now, strict=True)
                replaced |= {(module, name): value for name, value in pairs if value is not originals[name]}
        for place in self._told.keys() - replaced.keys():
            del self._told[place]
            ask("patch", *place)
        for place, value in replaced.items():
            if place not in self._told or self._told[place] is not value:
                ask("patch", *place, value)
                self._told[place] = value
        while self._seeds:
            ask("seed", *self._seeds.pop(0))
        if self._watches_environment:
            self._tell_environment(ask)

    def _watch_seeds(self, name: str) -> None:
        """Have the tests' seeds of random numbers told to the program, whose random numbers are its own."""
        module = importlib.import_module(name)
        plain = module.seed

        def seed(*given: Any) -> None:
            self._seeds.append((name, *given))
            plain(*given)

        vars(module)["seed"] = seed

    def _tell_environment(self, ask: Callable[..., Any]) -> None:
        if (place := _place()) != self._place:
            self._place = place
            ask("chdir", place)
        if (now := _environment()) != self._environment:
            old, self._environment = self._environment, now
            ask("environment", {name: now.get(name) for name in old | now if now.get(name) != old.get(name)})


def watched(*sources: str) -> set[str]:
    """Return the modules of the standard library that test code imports, or of which it names a part to a patcher."""
    found = {"warnings"} if any("warn" in source for source in sources) else set()
    naming = [source for source in sources if any(word in source for word in ("import", *PATCHERS))]
    for node in (node for source in naming for node in ast.walk(testcode.parsed(source))):
        match node:
            case ast.Import(names=aliases):
                found |= {alias.name for alias in aliases}
            case ast.ImportFrom(module=str(module), level=0):
                found.add(module)
            case ast.Call(
                func=ast.Attribute(attr=name) | ast.Name(id=name), args=[ast.Constant(value=str(path)), *_]
            ) if name in PATCHERS:
                found.add(path.rpartition(".")[0])
    library = {name for name in found if name.partition(".")[0] in sys.stdlib_module_names}
    return {name for name in library - {"builtins", "sys"} if _is_module(name)}


def _place() -> str:
    """Return the working directory, or "/" once it has been removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "/"


def _environment() -> dict[str, str]:
    """Return the environment variables without pytest's, which hold the values that a test expects."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}


def _is_module(name: str) -> bool:
    try:
        return isinstance(importlib.import_module(name), types.ModuleType)
    except ImportError:
        return False

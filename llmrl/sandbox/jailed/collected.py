"""Tests that need pytest itself, for fixtures, parameters or marks: pytest runs them from memory, in this process."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import types
from collections.abc import Callable
from typing import Any

import coroutines

OPTIONS = (
    *("-c", "/dev/null", "--rootdir=/", "--noconftest", "--assert=plain", "--capture=no"),
    *(part for plugin in ("cacheprovider", "terminal", "faulthandler", "doctest") for part in ("-p", f"no:{plugin}")),
)


class Session:
    """A run of pytest, which has collected nothing yet; tests run while `hold` holds it open."""

    def __init__(self):
        self._session: Any = None
        self._faults: list[str] = []
        self._raised: list[BaseException] = []

    def hold(self, use: Callable[[], object]) -> None:
        """Start pytest, call `use`, and end pytest; raises what `use` raises, or ImportError without pytest."""
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        hooks = _Hooks(self, use)
        importlib.import_module("pytest").main([*OPTIONS], plugins=[hooks])
        if hooks.raised is not None:
            raise hooks.raised
        if self._session is None:
            raise ImportError("pytest did not start")

    def items(self, module: types.ModuleType) -> list[Any]:
        """Collect a module's tests, each as often as it has parameters; raises RuntimeError if that fails."""
        self._faults.clear()
        items = list(self._session.genitems(_node(self._session, module)))
        if self._faults:
            raise RuntimeError(self._faults[0])
        return items

    def run(self, item: Any, following: Any) -> None:
        """Run a collected test with its fixtures; raises what the test raises, unless it is marked to be left out."""
        self._raised.clear()
        run = importlib.import_module("_pytest.runner").runtestprotocol
        failed = [report for report in run(item, nextitem=following, log=False) if report.failed]
        if not failed:
            return
        error = self._raised[0] if self._raised else AssertionError("it passes against its mark")
        if isinstance(error, importlib.import_module("pytest").FixtureLookupError):
            error = RuntimeError(_summary(failed[0]))
        raise error


class _Hooks:
    """The functions that pytest calls."""

    def __init__(self, owner: Session, use: Callable[[], object]):
        self._owner, self._use = owner, use
        self.raised: BaseException | None = None

    def pytest_collection(self, session: Any) -> bool:
        self._owner._session = session
        return True

    def pytest_runtestloop(self, session: Any) -> bool:
        try:
            self._use()
        except BaseException as error:
            self.raised = error
        return True

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._owner._faults.append(_summary(report))

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        if call.excinfo is not None:
            self._owner._raised.append(call.excinfo.value)

    def pytest_pyfunc_call(self, pyfuncitem: Any) -> bool | None:
        if not inspect.iscoroutinefunction(pyfuncitem.obj):
            return None
        given = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        coroutines.finish(pyfuncitem.obj(**given))
        return True


def _summary(report: Any) -> str:
    lines = str(report.longrepr).strip().splitlines()
    return next((line.removeprefix("E").strip() for line in lines if line.startswith("E ")), lines[-1])


def _node(session: Any, module: types.ModuleType) -> Any:
    """Return pytest's node of a module that no file holds."""
    pytest, pathlib = importlib.import_module("pytest"), importlib.import_module("pathlib")
    kind = type("Tests", (pytest.Module,), {"_getobj": lambda self: module})
    return kind.from_parent(session, path=pathlib.Path(f"/{module.__name__}.py"))


def is_needed(tree: ast.Module) -> bool:
    """Return whether a text's tests use what only pytest gives: fixtures, marks, or methods that prepare others."""
    found = list(tree.body)
    found += [node for owner in tree.body if isinstance(owner, ast.ClassDef) for node in owner.body]
    return any(_is_pytests(node) for node in found)


def _is_pytests(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if any(text.startswith("pytest.") or text.startswith(("fixture", "mark.")) for text in decorators):
        return True
    if isinstance(node, ast.ClassDef):
        return False
    taken = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
    given = any("given(" in text for text in decorators)
    return node.name.startswith(("setup_", "teardown_")) or (node.name.startswith("test") and bool(taken) and not given)

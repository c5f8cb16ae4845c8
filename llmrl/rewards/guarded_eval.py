"""An `eval` for scorers that evaluate a model's answer: it computes values and formulas, and runs no other code.

"[[0, 1], [1, 2]]"   "49*(85 - 1)/14"   "2*x**3 + sin(x)"      evaluated
"__import__('os')"   "open('x', 'w')"   "9**9**9"              ValueError
"""

from __future__ import annotations

import ast
import functools
import importlib
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

PARSER = "sympy.parsing.sympy_parser"
MAX_POWER = 10_000
"""The largest product of numbers in an exponent or a factorial, those around it included."""
_VALUES = (ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.Load, ast.Call, ast.keyword)
_OPERATIONS = (ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)


@contextmanager
def guarding(package: str) -> Iterator[None]:
    """While it lasts, the modules of `package` and sympy's parser evaluate text with `guarded_eval`."""
    modules = _modules(package)
    for module in modules:
        module.__dict__["eval"] = guarded_eval
    try:
        yield
    finally:
        for module in modules:
            del module.__dict__["eval"]


def guarded_eval(code: str, names: Mapping[str, Any] | None = None, own: Mapping[str, Any] | None = None) -> Any:
    """The value of an expression of numbers, texts, collections and sympy's objects; ValueError for any other."""
    tree = ast.parse(code.strip(), mode="eval")
    known = {**(names or {}), **(own or {})}
    for node in ast.walk(tree):
        allowed = (
            _is_formula(known.get(node.id)) if isinstance(node, ast.Name) else isinstance(node, _VALUES + _OPERATIONS)
        )
        if not allowed:
            raise ValueError(f"{ast.unparse(node)[:80]!r} is no value and no formula")
    _check_powers(tree, 1.0)
    return eval(compile(tree, "<answer>", "eval"), {"__builtins__": {}} | known)


@functools.cache
def _modules(package: str) -> list[ModuleType]:
    importlib.import_module(PARSER)
    return [module for name, module in sys.modules.items() if name == PARSER or name.startswith(f"{package}.")]


def _is_formula(value: Any) -> bool:
    """Whether a name stands for a class or an object of formulas, or a function that only makes one."""
    import sympy

    makes_one = (sympy.sqrt, sympy.cbrt, sympy.root, abs)
    return (
        value in makes_one
        or isinstance(value, sympy.Basic)
        or (isinstance(value, type) and issubclass(value, sympy.Basic))
    )


def _check_powers(node: ast.AST, around: float) -> None:
    """Raises ValueError if an exponent or the argument of a factorial is too large to be computed, or has another."""
    inside = _grows_with(node)
    constants = [one.value for part in inside for one in ast.walk(part) if isinstance(one, ast.Constant)]
    around *= math.prod(max(abs(_number(value)), 1.0) for value in constants)
    if around > MAX_POWER or any(_grows_with(one) for part in inside for one in ast.walk(part)):
        raise ValueError(f"{ast.unparse(node)[:80]!r} is too large")
    for child in ast.iter_child_nodes(node):
        _check_powers(child, around)


def _grows_with(node: ast.AST) -> list[ast.expr]:
    """The exponent of a power, or the arguments of a factorial; nothing for any other node."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return [node.right]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and "factorial" in node.func.id:
        return node.args
    return []


def _number(value: Any) -> float:
    """The size of a constant, which sympy's parser may have written as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return 1.0
    except OverflowError:
        return math.inf

"""Pieces: functions that a recipe names.

Before the star, data; after the star, settings. A piece's positional parameters name the data that it reads and a run
must provide; its keyword-only parameters are the settings of a recipe.

    policy_loss: ppo_clip                        the function with its defaults
    policy_loss: {ppo_clip: {clip_high: 0.28}}   with a setting
    policy_loss: {my_package.losses:mine: {}}    any importable function
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from llmrl.errors import RecipeError, nearest, unknown_name

PieceSpec = str | dict[str, dict[str, Any] | None]


@dataclass(frozen=True)
class Piece:
    """A function bound to its settings; calling it takes the data by name."""

    name: str
    function: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[str, ...] = ()

    def __call__(self, available: Mapping[str, Any]) -> Any:
        return self.function(*(available[name] for name in self.data), **self.settings)

    def mark(self, name: str) -> Any:
        """The value of one of the function's marks (llmrl/marks.py); None without the mark."""
        return getattr(self.function, name, None)

    def setting(self, name: str) -> Any:
        """The value of a setting, given or by default; None where the piece has no such setting."""
        parameter = inspect.signature(self.function).parameters.get(name)
        return self.settings.get(name, parameter.default) if parameter else None


def catalogue(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The pieces that `module` defines, by name: its public functions that are no providers."""
    return {name: function for name, function in functions_of(module).items() if not hasattr(function, "provides")}


def functions_of(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """The public functions that `module` defines, or, of a package, those that its modules define, by name."""
    if hasattr(module, "__path__"):
        below = (importlib.import_module(f"{module.__name__}.{m.name}") for m in pkgutil.iter_modules(module.__path__))
        return dict(sorted(pair for one in below for pair in functions_of(one).items()))
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def split_spec(spec: PieceSpec, key: str) -> tuple[str, dict[str, Any]]:
    """A piece's name and settings from either of its two spellings."""
    if isinstance(spec, str):
        return spec, {}
    if len(spec) != 1:
        raise RecipeError(f"{key}: expected one name, got {len(spec)} ({', '.join(spec) or 'none'})")
    name, settings = next(iter(spec.items()))
    return name, dict(settings or {})


def resolve(spec: PieceSpec, valid: Mapping[str, Callable[..., Any]], *, key: str, what: str) -> Piece:
    """The piece that `spec` names; raises RecipeError with the nearest valid name or setting."""
    name, settings = split_spec(spec, key)
    return bind(name, find(name, valid, key=key, what=what), settings, key=key)


def find(name: str, valid: Mapping[str, Callable[..., Any]], *, key: str, what: str) -> Callable[..., Any]:
    """The function of this name, or at `module:function`; raises RecipeError with the nearest valid name."""
    function = import_function(name, key) if ":" in name else valid.get(name)
    if function is None:
        raise RecipeError(unknown_name(key, name, valid, what))
    return function


def bind(
    name: str,
    function: Callable[..., Any],
    settings: Mapping[str, Any],
    *,
    key: str,
    data: Sequence[str] | None = None,
) -> Piece:
    """`function` with `settings` checked against its other parameters: names, types, none missing.

    data: the parameters that are data; default: those before the star.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        raise RecipeError(f"{key}: '{name}' does not say what it takes; wrap it in a Python function") from None
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    data = tuple(p.name for p in named if p.kind is not p.KEYWORD_ONLY) if data is None else tuple(data)
    allowed = {p.name: p for p in named if p.name not in data}
    hints = settings_hints(function)
    faults, checked = [], {}
    for setting, value in settings.items():
        if setting not in allowed:
            guess = nearest(setting, allowed)
            hint = f"did you mean '{guess}'?" if guess else f"settings: {', '.join(allowed) or 'none'}"
            faults.append(f"{key}.{name}: no setting '{setting}' (value {value!r}); {hint}")
            continue
        try:
            checked[setting] = TypeAdapter(hints.get(setting, Any)).validate_python(value)
        except ValidationError as error:
            told = error.errors()[0]["msg"].removeprefix("Value error, ")
            faults.append(f"{key}.{name}.{setting}: {value!r} is not valid: {told}")
    for setting, parameter in allowed.items():
        if parameter.default is parameter.empty and setting not in settings:
            faults.append(f"{key}.{name}: setting '{setting}' has no default and must be given")
    if not faults and (check := getattr(function, "check_settings", None)):
        try:
            check(**{p.name: p.default for p in allowed.values()} | checked)
        except ValueError as error:
            faults.append(f"{key}.{name}: {error}")
    if faults:
        raise RecipeError(*faults)
    return Piece(name, function, checked, data)


def shown(value: Any) -> str:
    """A setting's value on one line."""
    text = str(value)
    return text if text.isprintable() else repr(value)


def settings_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of a function's parameters, as far as they can be told."""
    try:
        return typing.get_type_hints(function, include_extras=True)  # Annotated bounds count
    except (NameError, TypeError):  # a user's function may annotate names that exist only for type checkers
        return {}


def import_function(path: str, key: str) -> Callable[..., Any]:
    """The function at `module:function`; raises RecipeError if it cannot be imported."""
    module_name, _, attribute = path.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # a module may raise anything while it is imported
        hint = ""
        if isinstance(error, ModuleNotFoundError) and error.name == module_name:
            hint = _meant(module_name, {found.name for found in pkgutil.iter_modules()})
        elif isinstance(error, AttributeError) and module_name in sys.modules:
            hint = _meant(attribute, vars(sys.modules[module_name]))
        raise RecipeError(f"{key}: cannot import '{path}': {type(error).__name__}: {error}{hint}") from None
    if not callable(function):
        raise RecipeError(f"{key}: '{path}' is a {type(function).__name__}, expected a function")
    return function


def _meant(name: str, valid: Iterable[str]) -> str:
    guess = nearest(name, valid)
    return f"; did you mean '{guess}'?" if guess else ""

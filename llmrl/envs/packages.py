"""Packages and functions that environments need, imported when a recipe names them."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from typing import Any


def require(package: str) -> None:
    """Raises ValueError, which names the way to install it, for a package that is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"the package {package} is not installed; install it with: pip install 'llmrl[envs]'")


def is_path(text: str) -> bool:
    """Whether a text is a `module:function`."""
    return re.fullmatch(r"[\w.]+:\w+", text) is not None


def imported(path: str) -> Callable[..., Any]:
    """The function or class at `module:function`; raises ValueError where there is none."""
    module, _, name = path.partition(":")
    found = getattr(import_module(module, path), name, None)
    if not callable(found):
        raise ValueError(f"'{path}' is no function")
    return found


def import_module(name: str, path: str) -> Any:
    """The module that `path` names; raises ValueError if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a module may raise anything while it is imported
        raise ValueError(f"cannot import '{path}': {type(error).__name__}: {error}") from None

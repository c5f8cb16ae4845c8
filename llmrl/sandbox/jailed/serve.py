"""The runner of a program under test: runs it as a module, then does with its objects what the tests' process asks."""

from __future__ import annotations

import socket
import sys
import types
from typing import Any

import peer
import script

NAME = "program"
"""The module's name: not __main__, so that a program's main block does not run."""


def main(payload: dict, report: int, channel: int) -> None:
    """payload: {"source": text}. The module runs when it is asked to "load", so the tests see what it raises."""
    code = script.compiled(payload["source"], report)
    module = types.ModuleType(NAME)
    sys.modules[NAME] = module
    sys.argv = ["program.py"]
    operations = {
        **peer.OPERATIONS,
        "load": lambda: exec(code, vars(module)),
        "name": lambda name: _named(module, name),
        "call": _call,
    }
    with socket.socket(fileno=channel) as connection:
        peer.Peer(
            connection,
            operate=lambda operation, args, kwargs: operations[operation](*args, **kwargs),
            lends=lambda value: True,
        ).serve()


def _named(module: types.ModuleType, name: str) -> Any:
    if name not in vars(module):
        raise NameError(f"the program defines no {name}")
    return vars(module)[name]


def _call(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """What it returns; an instance of a class of the program's stays here, even where the class extends a builtin."""
    result = function(*args, **kwargs)
    return peer.Lent(result) if isinstance(function, type) and function.__module__ == NAME else result

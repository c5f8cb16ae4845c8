"""The runner of a program under test: runs it as a module, then answers the tests' process about its objects."""

from __future__ import annotations

import socket
import sys
import types
from typing import Any

import remote_objects
import script

NAME = "program"
"""The module's name, which is not __main__, so that a program's main block does not run."""


def main(payload: dict, report: int, channel: int) -> None:
    """Serve the program payload["source"]. It runs when the tests ask to "load" it, so they see what it raises."""
    code = script.compiled(payload["source"], report)
    module = types.ModuleType(NAME)
    sys.modules[NAME] = module
    sys.argv = ["program.py"]
    operations = {
        **remote_objects.OPERATIONS,
        "load": lambda: exec(code, vars(module)),
        "name": lambda name: _named(module, name),
        "call": _call,
    }
    with socket.socket(fileno=channel) as channel_socket:
        remote_objects.Connection(
            channel_socket,
            operate=lambda operation, args, kwargs: operations[operation](*args, **kwargs),
            lends=lambda value: True,
        ).serve()


def _named(module: types.ModuleType, name: str) -> Any:
    if name not in vars(module):
        raise NameError(f"the program defines no {name}")
    return vars(module)[name]


def _call(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function or class; an instance of the program's class stays here, even if the class extends a builtin."""
    result = function(*args, **kwargs)
    return remote_objects.Lent(result) if isinstance(function, type) and function.__module__ == NAME else result

"""The runner of a program under test: runs it as a module, then answers the tests' process about its objects."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import socket
import sys
import types
from typing import Any

import connection
import remote_objects
import script
import sharing
import values

NAME = "program"
"""The module's name, which is not __main__, so that a program's main block does not run."""


def main(payload: dict, report: int, channel: int) -> None:
    """Serve the program payload["source"]. It runs when the tests ask to "load" it, so they see what it raises.

    payload["preamble"]: source that runs in the program's namespace before, when the tests ask to "prepare" it.
    """
    preamble = payload.get("preamble", "")
    code = script.compiled(payload["source"], report)
    module = types.ModuleType(NAME)
    sys.modules[NAME] = module
    sys.argv = ["program.py"]
    surroundings, folder = Surroundings(), sharing.Folder()
    operations = {
        **remote_objects.OPERATIONS,
        "prepare": lambda: script.run_preamble(preamble, module),
        "load": lambda: exec(code, vars(module)),
        "module": lambda: module,
        "names": lambda names: {name: vars(module)[name] for name in names if name in vars(module)},
        "call": _call,
        "type": type,  # asked by tests alone: a program that had their classes could call them
        "dataclass": lambda name, *args, **given: getattr(importlib.import_module("dataclasses"), name)(*args, **given),
        "patch": surroundings.patch,
        "environment": surroundings.set_environment,
        "seed": lambda name, *given: importlib.import_module(name).seed(*given),
        "chdir": surroundings.change_folder,
        "files": folder.apply,
    }
    with socket.socket(fileno=channel) as channel_socket:
        tests = connection.Connection(
            channel_socket,
            operate=lambda operation, args, kwargs: operations[operation](*args, **kwargs),
            lends=lambda value: True,
            remote=remote_objects.Operand,
            settle=lambda: (*(stream.report(tests) for stream in streams), folder.tell(tests.ask)),
        )
        streams = [Forwarded(1), Forwarded(2)]
        sys.stdout, sys.stderr = (stream.text for stream in streams)
        tests.serve()


class Forwarded(io.RawIOBase):
    """A standard stream whose text the tests' process is told too, as it may read what the program prints.

    place: the stream's descriptor. text: the stream as sys.stdout and sys.stderr have it.
    """

    def __init__(self, place: int):
        self._place, self._kept = place, bytearray()
        raw: io.RawIOBase = self
        self.text = io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace")

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        written = os.write(self._place, data)
        self._kept += data[:written]
        return written

    def report(self, tests: connection.Connection) -> None:
        """Tell the tests' process what was written since the last time."""
        with contextlib.suppress(ValueError):  # the program has closed it
            self.text.flush()
        if self._kept:
            text = self._kept.decode("utf-8", "replace")
            self._kept.clear()
            tests.ask("write", self._place, text)


class Surroundings:
    """The tests' replacements in this process: names in modules, and environment variables."""

    def __init__(self):
        self._originals: dict[tuple[str, str], Any] = {}

    def patch(self, module: str, name: str, *value: Any) -> None:
        """Set a name of a module to a value, or back to the original if no value is given."""
        names = vars(importlib.import_module(module))
        if value:
            self._originals.setdefault((module, name), names.get(name))
            names[name] = value[0]
        else:
            names[name] = self._originals.pop((module, name))

    def change_folder(self, place: str) -> None:
        """Go to a folder of the tests, unless the tier keeps the tests' folders from programs."""
        with contextlib.suppress(OSError):
            os.chdir(place)

    def set_environment(self, variables: dict[str, str | None]) -> None:
        """Set the environment variables; those that are None are removed."""
        for name, value in variables.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


def _call(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function or class; an instance of the program's class stays here, even if the class extends a builtin."""
    result = function(*args, **kwargs)
    own = isinstance(function, type) and function.__module__ == NAME and values.tag(function) not in SENT_WHOLE
    return remote_objects.Lent(result) if own else result


SENT_WHOLE = ("namedtuple", "enum")
"""The kinds of the program's own classes whose instances are sent by value."""

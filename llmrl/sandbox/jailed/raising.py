"""Exceptions of the other process: those of Python and its library are made again; other classes get a stand-in.

An exception is sent as its class, its arguments, its text, its public attributes, a reference to the object itself if
its class belongs to the sender, and its cause: [class, [argument, ...], text, {name: value}, reference, exception].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import values
import wire

MESSAGE_CHARACTERS = 1000
Encode = Callable[[Any], Any]


class Foreign(type):
    """The type of the classes here that stand for exception classes of the other process.

    A stand-in has the builtin bases of its original, so that `except` and `issubclass` know it. The other process makes
    its instances, and is asked for what they do not have here.
    """

    _remote: Any

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Have the other process make an exception of the original class."""
        return cls._remote(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(cls._remote, name)


def stand_in(name: str, bases: list[type], remote: Any) -> Foreign:
    """Make the class that stands for the exception class `remote`; raises TypeError if a base is no exception."""
    if not bases or not all(isinstance(base, type) and issubclass(base, BaseException) for base in bases):
        raise TypeError("expected exception classes")
    names = {"_remote": remote, "__module__": "solution", "__str__": _text, "__getattr__": _attribute}
    return Foreign(name, tuple(bases), names)


def _text(self: BaseException) -> str:
    return vars(self).get("_text", "")


def _attribute(self: BaseException, name: str) -> Any:
    if name.startswith("_") or "_original" not in vars(self):
        raise AttributeError(name)
    return getattr(vars(self)["_original"], name)


def original(value: Any) -> Any:
    """Return the Remote of what a stand-in class or one of its instances stands for, None for anything else."""
    if type(value) is Foreign:
        return value._remote
    return vars(value).get("_original") if type(type(value)) is Foreign else None


def bases(kind: type) -> list[type]:
    """Return the exceptions that an exception class extends."""
    return [base for base in kind.__bases__ if issubclass(base, BaseException)]


def encoded(error: BaseException, encode: Encode, refer: Encode) -> list:
    """Return an exception as data. refer: makes the reference to the exception itself."""
    kind = _sendable(type(error), encode)
    text = described(error)[1]
    try:
        args = [encode(one) for one in error.__reduce__()[1]]
    except Exception:  # the class may have methods of its own, and the arguments may be of any kind
        args = [text]
    names = {}
    for name, value in vars(error).items():
        with contextlib.suppress(wire.WireError):
            names |= {} if name.startswith("_") else {name: encode(value)}
    cause = None if error.__cause__ is None else encode(error.__cause__)
    return [kind, args, text, names, refer(error) if "class" in kind else None, cause]


def _sendable(kind: type, encode: Encode) -> dict:
    for base in kind.__mro__:
        with contextlib.suppress(wire.WireError):
            return encode(base)
    return encode(Exception)


def decoded(body: Any, decode: Encode) -> BaseException:
    """Make an exception again; raises TypeError or ValueError for data that is none."""
    kind, args, text, names, itself, cause = body
    kind, args, names = decode(kind), decode(args), {name: decode(value) for name, value in names.items()}
    if not (isinstance(kind, type) and issubclass(kind, BaseException) and type(args) is list and type(text) is str):
        raise TypeError("expected an exception")
    try:
        error = kind.__new__(kind, *args) if type(kind) is Foreign else kind(*args)
    except Exception:  # the exception takes other arguments than it has kept
        error = kind.__new__(kind)
        error.args = tuple(args)
    vars(error).update({name: value for name, value in names.items() if not name.startswith("_")})
    if type(kind) is Foreign:
        error.args = tuple(args)
        vars(error).update(_text=text, _original=decode(itself))
    error.__cause__ = decode(cause)
    return error


def raised(error: BaseException, operation: str) -> BaseException:
    """Mark an exception as the other process's.

    One that ends an iteration is let through by the operations that iterate alone, as all() would pass on it.
    """
    ends = isinstance(error, StopIteration | StopAsyncIteration | GeneratorExit)
    if ends and ENDS.get(operation) is not type(error):
        error = RuntimeError(f"{type(error).__name__}: {error}")
    vars(error)["_remote"] = True
    return error


ENDS = {"next": StopIteration, "send": StopIteration, "anext": StopAsyncIteration}


def described(error: BaseException) -> tuple[str, str]:
    """Return the name of the nearest builtin exception, and the error's message."""
    name = next(base.__name__ for base in type(error).__mro__ if values.known(base.__name__) is base)
    try:
        message = error.args[0] if len(error.args) == 1 and type(error.args[0]) is str else str(error)
    except BaseException:  # the program's own exception may raise anything when it is printed
        message = ""
    return name, str.__str__(message)[:MESSAGE_CHARACTERS]


def was_raised_remotely(error: BaseException) -> bool:
    """Return whether `error` was raised by the other process."""
    return "_remote" in vars(error)

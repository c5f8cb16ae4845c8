"""Remote objects: two processes use each other's objects over one channel.

One process asks and the other answers. While the other works on its answer it may ask back, so calls nest as in one
program. Plain data is copied (see wire). Any other object stays with its owner, and the other process has a Remote of
it. If a call changes a list, dict, set or bytearray in place, the caller's object is changed too.

    ["ask", operation, [argument, ...], {name: argument}]
    ["answer", value, [[place, argument as it is now], ...]]      or      ["raised", builtin exception's name, message]
"""

from __future__ import annotations

import copy
import operator
import socket
from _thread import RLock  # an import of threading would make every program's start slower
from collections.abc import Callable, Mapping
from typing import Any

import wire

MESSAGE_CHARACTERS = 1000
ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
BITS = ("and", "or", "xor", "lshift", "rshift")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
UNARY = ("neg", "pos", "abs", "invert")


def _raisable(kind: type) -> bool:
    try:
        return issubclass(kind, BaseException) and kind("message") is not None
    except TypeError:  # this exception takes other arguments
        return False


RAISABLE = {name: kind for name, kind in wire.TYPES.items() if _raisable(kind)}
"""An exception is sent as the name of one of these and a message, and nothing else."""


class Gone(BaseException):
    """The other process has ended or sent an invalid message, so it can be asked nothing more."""


class Lent:
    """A value that becomes a Remote in the other process even though it could be sent as data."""

    def __init__(self, value: Any):
        self.value = value


class Remote:
    """An object of the other process.

    Attributes, calls, items, iteration, len, str, numbers and `with` reach the object itself. Operators and comparisons
    reach it only between two Remotes. Between a Remote and plain data, operators are refused and == is False, so that
    the other process cannot see the data, nor claim to equal it. `in` iterates and compares in this process.
    """

    __slots__ = ("_connection", "_number")
    _number: int
    _connection: Connection

    def __init__(self, connection: Connection, number: int):
        object.__setattr__(self, "_connection", connection)
        object.__setattr__(self, "_number", number)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._connection.ask("call", self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # libraries trust special attributes: numpy, for example, takes a memory address from one
        if name.startswith("__") and name not in ("__name__", "__dict__"):
            raise AttributeError(f"{name} of an object in another process")
        return self._connection.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._connection.ask("set", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._connection.ask("delete", self, name)

    def __getitem__(self, key: Any) -> Any:
        return self._connection.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._connection.ask("set_item", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._connection.ask("delete_item", self, key)

    def __iter__(self) -> Any:
        return self._connection.ask("iterate", self)

    def __next__(self) -> Any:
        return self._connection.ask("next", self)

    def __len__(self) -> int:
        return self._connection.ask("length", self)

    def __bool__(self) -> bool:
        return self._connection.ask("truth", self) is True

    def __str__(self) -> str:
        return self._connection.ask("text", self)

    def __repr__(self) -> str:
        return self._connection.ask("show", self)

    def __format__(self, spec: str) -> str:
        return self._connection.ask("format", self, spec)

    def __float__(self) -> float:
        return self._connection.ask("float", self)

    def __int__(self) -> int:
        return self._connection.ask("int", self)

    def __index__(self) -> int:
        return self._connection.ask("index", self)

    def __copy__(self) -> Any:
        return self._connection.ask("copy", self)

    def __deepcopy__(self, memo: dict) -> Any:
        return self._connection.ask("deepcopy", self)

    def __hash__(self) -> int:
        return hash((Remote, self._number))

    def __instancecheck__(self, instance: Any) -> bool:
        return type(instance) is Remote and self._connection.ask("isinstance", instance, self) is True

    def __enter__(self) -> Any:
        return self._connection.ask("enter", self)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Leave the block without suppressing an exception, so that an assertion that fails inside it has failed."""
        name, message = described(error) if error is not None else ("", "")
        self._connection.ask("leave", self, name, "" if isinstance(error, AssertionError) else message)


def _binary(name: str) -> Callable[[Remote, Any], Any]:
    def method(self: Remote, other: Any) -> Any:
        return self._connection.ask(name, self, other) if type(other) is Remote else NotImplemented

    return method


def _unary(name: str) -> Callable[[Remote], Any]:
    return lambda self: self._connection.ask(name, self)


for _name in (*ARITHMETIC, *BITS, *COMPARISONS):
    setattr(Remote, f"__{_name}__", _binary(_name))
for _name in UNARY:
    setattr(Remote, f"__{_name}__", _unary(_name))


def _call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _enter(manager: Any) -> Any:
    return type(manager).__enter__(manager)


def _leave(manager: Any, name: str, message: str) -> None:
    error = RAISABLE.get(name, Exception)(message) if name else None
    type(manager).__exit__(manager, type(error) if error else None, error, None)


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "call": _call,
    "get": getattr,
    "set": setattr,
    "delete": delattr,
    "item": operator.getitem,
    "set_item": operator.setitem,
    "delete_item": operator.delitem,
    "iterate": iter,
    "next": next,
    "length": len,
    "truth": bool,
    "text": str,
    "show": repr,
    "format": format,
    "float": float,
    "int": int,
    "index": operator.index,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "isinstance": isinstance,
    "enter": _enter,
    "leave": _leave,
    **{name: getattr(operator, f"__{name}__") for name in (*ARITHMETIC, *BITS, *COMPARISONS, *UNARY)},
}
"""The operations that can be asked for; each one's first argument is the object."""


class Connection:
    """This process's end of the channel to the other process.

    operate(operation, args, kwargs): does an operation that the other process asks for. lends(value): says whether the
    other process may have a Remote of `value`, which is no plain data.
    """

    def __init__(
        self,
        channel: socket.socket,
        *,
        operate: Callable[[str, list[Any], dict[str, Any]], Any],
        lends: Callable[[Any], bool],
    ):
        self.gone = False
        self.questions = 0
        self._socket, self._operate, self._lends = channel, operate, lends
        self._lent: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}  # keys are ids, which stay valid because _lent keeps the objects
        self._remotes: dict[int, Remote] = {}
        self._lock = RLock()
        self._idle = False

    def ask(self, operation: str, /, *args: Any, **kwargs: Any) -> Any:
        """Ask for an operation; returns the answer or raises the other process's exception, or Gone if it has ended."""
        question = ["ask", operation, [self._encode(one) for one in args]]
        packed = wire.pack([*question, {name: self._encode(one) for name, one in kwargs.items()}])
        if self._idle:
            raise RuntimeError("the other side waits for nothing")
        with self._lock:
            self.questions += 1
            self._send(packed)
            while True:
                match self._receive():
                    case ["ask", str(asked), list(positional), dict(named)]:
                        self._answer(asked, positional, named)
                    case ["answer", value, list(changes)]:
                        self._change(args, kwargs, changes)
                        return self._decode(value)
                    case ["raised", str(name), str(message)]:
                        raise _rebuilt(name, message, operation)
                    case _:
                        self._lose("not a message")

    def serve(self) -> None:
        """Answer questions until the other process has ended."""
        while True:
            self._idle = True
            try:
                message = self._receive()
            except Gone:
                return
            self._idle = False
            match message:
                case ["ask", str(asked), list(positional), dict(named)]:
                    self._answer(asked, positional, named)
                case _:
                    return

    def lent(self, value: Any) -> bool:
        """Return whether the other process has a Remote of this very object."""
        return id(value) in self._numbers

    def _answer(self, operation: str, positional: list[Any], named: dict[str, Any]) -> None:
        args = [self._decode(one) for one in positional]
        kwargs = {name: self._decode(one) for name, one in named.items()}
        places = {**dict(enumerate(args)), **kwargs}
        try:
            before = {place: self._encode(one) for place, one in places.items() if _may_change(one)}
            value = self._operate(operation, args, kwargs)
            now = {place: self._encode(places[place]) for place in before}
            changes = [[place, data] for place, data in now.items() if data != before[place]]
            packed = wire.pack(["answer", self._encode(value), changes])
        except Gone:
            raise
        except BaseException as error:
            packed = wire.pack(["raised", *described(error)])
        self._send(packed)

    def _change(self, args: tuple[Any, ...], kwargs: dict[str, Any], changes: list[Any]) -> None:
        places = {**dict(enumerate(args)), **kwargs}
        for change in changes:
            match change:
                case [int() | str() as place, data] if place in places:
                    _changed(places[place], self._decode(data))
                case _:
                    self._lose("not a change")

    def _encode(self, value: Any) -> Any:
        return self._reference(value.value) if type(value) is Lent else wire.encode(value, self._reference)

    def _decode(self, data: Any) -> Any:
        try:
            return wire.decode(data, self._referred)
        except wire.WireError as error:
            self._lose(str(error))

    def _reference(self, value: Any) -> dict[str, int]:
        if type(value) is Remote:
            return {"yours": value._number}
        if not self._lends(value):
            raise wire.WireError(f"a {type(value).__name__} cannot be sent to another process")
        number = self._numbers.setdefault(id(value), len(self._numbers))
        self._lent[number] = value
        return {"mine": number}

    def _referred(self, whose: str, number: int) -> Any:
        if whose == "yours":
            return self._lent[number]
        if number not in self._remotes:
            self._remotes[number] = Remote(self, number)
        return self._remotes[number]

    def _send(self, packed: bytes) -> None:
        if self.gone:
            raise Gone("the other side has ended")
        try:
            wire.send(self._socket, packed)
        except OSError as error:
            self._lose(str(error))

    def _receive(self) -> Any:
        try:
            return wire.receive(self._socket)
        except (OSError, EOFError, wire.WireError) as error:
            self._lose(str(error))

    def _lose(self, reason: str) -> Any:
        self.gone = True
        raise Gone(reason)


def described(error: BaseException) -> tuple[str, str]:
    """Return the name of the nearest exception that can be sent, and the error's message."""
    name = next((base.__name__ for base in type(error).__mro__ if RAISABLE.get(base.__name__) is base), "Exception")
    try:
        message = error.args[0] if len(error.args) == 1 and type(error.args[0]) is str else str(error)
    except BaseException:  # the program's own exception may raise anything when it is printed
        message = ""
    return name, str.__str__(message)[:MESSAGE_CHARACTERS]


def was_raised_remotely(error: BaseException) -> bool:
    """Return whether `error` was raised by the other process."""
    return "_remote" in vars(error)


def _rebuilt(name: str, message: str, operation: str) -> BaseException:
    """Make the exception again; one that ends an iteration is allowed after "next" alone, as all() would pass on it."""
    kind = RAISABLE.get(name, Exception)
    ends = issubclass(kind, StopIteration | StopAsyncIteration | GeneratorExit)
    if ends and not (kind is StopIteration and operation == "next"):
        kind, message = RuntimeError, f"{name}: {message}"
    error = kind(message) if message else kind()
    vars(error)["_remote"] = True
    return error


def _may_change(value: Any) -> bool:
    return isinstance(value, list | dict | set | bytearray | tuple)


def _changed(old: Any, new: Any) -> Any:
    """Make `old` itself equal to `new` as deep as their types agree, and return it; otherwise return `new`."""
    if isinstance(old, list) and type(new) is list:
        kept = [_changed(before, now) for before, now in zip(old, new, strict=False)]
        list.__setitem__(old, slice(None), kept + new[len(old) :])
    elif isinstance(old, dict) and type(new) is dict:
        kept = {key: _changed(old[key], now) if dict.__contains__(old, key) else now for key, now in new.items()}
        dict.clear(old)
        dict.update(old, kept)
    elif isinstance(old, set) and type(new) is set:
        set.clear(old)
        set.update(old, new)
    elif isinstance(old, bytearray) and type(new) is bytearray:
        bytearray.__setitem__(old, slice(None), new)
    elif type(old) is tuple and type(new) is tuple and len(old) == len(new):
        return tuple(_changed(before, now) for before, now in zip(old, new, strict=True))
    else:
        return new
    return old

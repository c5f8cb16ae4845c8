"""Remote objects: what one process has of an object that stays in the other, and the operations on it."""

from __future__ import annotations

import copy
import importlib
import operator
import types
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any

import coroutines
import values
import wire

if TYPE_CHECKING:
    from connection import Connection

ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
BITS = ("and", "or", "xor", "lshift", "rshift")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")
UNARY = ("neg", "pos", "abs", "invert", "round", "reversed")
OPEN = ("__name__", "__qualname__", "__dict__", "__annotations__", "__defaults__", "__kwdefaults__")
"""The special attributes that are asked for; others could make a library trust what they say."""


class Lent:
    """A value that becomes a Remote in the other process even though it could be sent as data."""

    def __init__(self, value: Any):
        self.value = value


class Remote:
    """An object of the other process.

    Attributes, calls, items, iteration, len, str, numbers and `with` reach the object itself. Operators and comparisons
    reach it only between two Remotes. Between a Remote and plain data, operators are refused and == is False, so that
    the other process cannot see the data, nor claim to equal it. `in` iterates and compares in this process. (See
    Operand for the exception.)
    """

    __slots__ = ("_connection", "_number")

    def __init__(self, connection: Connection, number: int):
        object.__setattr__(self, "_connection", connection)
        object.__setattr__(self, "_number", number)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._connection.ask("call", self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # numpy, for example, would take a memory address from a special attribute
        if name.startswith("__") and name not in OPEN:
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
        return self._connection.ask("hash", self)

    def __instancecheck__(self, instance: Any) -> bool:
        sent = isinstance(instance, Remote) or type(instance) in values.MADE
        return sent and self._connection.ask("isinstance", instance, self) is True

    def __subclasscheck__(self, kind: Any) -> bool:
        return isinstance(kind, Remote) and self._connection.ask("issubclass", kind, self) is True

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise wire.WireError("a class of the tests cannot extend a class of the program")

    def __enter__(self) -> Any:
        return self._connection.ask("enter", self)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        return self._leave("leave", error)

    def _leave(self, operation: str, error: BaseException | None) -> bool:
        """Leave a block; an exception that is hidden from the other process, such as of an assertion, goes on."""
        shown = None if error is None else self._connection.shown(error)
        return self._connection.ask(operation, self, shown) is True and shown is error

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._connection.ask("aiter", self)

    async def __anext__(self) -> Any:
        return self._connection.ask("anext", self)

    async def __aenter__(self) -> Any:
        return self._connection.ask("aenter", self)

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        return self._leave("aleave", error)

    @property
    def __signature__(self) -> Any:
        return self._connection.ask("signature", self)

    @property
    def __code__(self) -> Any:
        """A code object of this process that says only whether the function is a generator or a coroutine."""
        return (lambda: None).__code__.replace(co_flags=self._connection.ask("flags", self) & KINDS_OF_CODE)

    __doc__ = property(lambda self: self._connection.ask("get", self, "__doc__"))  # pyright: ignore[reportAssignmentType]


KINDS_OF_CODE = 0x20 | 0x80 | 0x200
"""The flags of generators, coroutines and asynchronous generators."""


async def _awaited(remote: Remote) -> Any:
    return remote._connection.ask("await", remote)


def _coroutine(connection: Connection, number: int) -> Any:
    return _awaited(Remote(connection, number))


def _generated(connection: Connection, number: int) -> Generator[Any, Any, Any]:
    """Yield what the other process's generator yields; it is sent what this one is sent."""
    remote, sent = Remote(connection, number), None
    while True:
        try:
            value = remote._connection.ask("send", remote, sent)
        except StopIteration as end:
            return end.value
        sent = yield value


class AwaitableRemote(Remote):
    """A Remote of an object that can be awaited, such as a task."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, Any]:
        return _awaited(self).__await__()


STAND_INS: Mapping[str, Callable[..., Any]] = {
    "mine": Remote,
    "generator": _generated,
    "coroutine": _coroutine,
    "awaitable": AwaitableRemote,
}
"""What stands here for an object of the other process, by the tag of its reference."""


def sort(value: Any) -> str:
    """Return the tag in STAND_INS for an object of this process."""
    return _SORTS.get(type(value)) or ("awaitable" if hasattr(type(value), "__await__") else "mine")


_SORTS = {types.GeneratorType: "generator", types.CoroutineType: "coroutine"}


class _AsksForType(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs:
            (value,) = args
            return value._connection.ask("type", value) if isinstance(value, Remote) else type(value)
        return type(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, type)


class TypeOf(type, metaclass=_AsksForType):
    """The `type` of the tests' code: of an object of the program, the class that the program has."""


def reach_dataclasses() -> None:
    """Have the functions of dataclasses done by the program for its objects."""
    module = importlib.import_module("dataclasses")
    for name in ("asdict", "astuple", "fields", "is_dataclass", "replace"):
        setattr(module, name, _reaching(name, getattr(module, name)))


def _reaching(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    def function(value: Any, /, **given: Any) -> Any:
        if isinstance(value, Remote):
            return value._connection.ask("dataclass", name, value, **given)
        return plain(value, **given)

    return function


def _binary(name: str) -> Callable[[Remote, Any], Any]:
    def method(self: Remote, other: Any) -> Any:
        return self._connection.ask(name, self, other) if isinstance(other, Remote) else NotImplemented

    return method


def _unary(name: str) -> Callable[..., Any]:
    return lambda self, *others: self._connection.ask(name, self, *others)


for _name in (*ARITHMETIC, *BITS, *COMPARISONS):
    setattr(Remote, f"__{_name}__", _binary(_name))
for _name in UNARY:
    setattr(Remote, f"__{_name}__", _unary(_name))


class Operand(Remote):
    """An object that this process has made itself of a class of the other process, or that need not be kept from data.

    Arithmetic with plain data, and `in`, reach the object too. Comparisons with plain data do not.
    """

    __slots__ = ()

    def __contains__(self, item: Any) -> bool:
        return self._connection.ask("contains", self, item) is True


def _arithmetic(name: str) -> Callable[[Operand, Any], Any]:
    return lambda self, other: _operand(self._connection.ask(name, self, other))


def _reflected(name: str) -> Callable[[Operand, Any], Any]:
    return lambda self, other: _operand(self._connection.ask(name, other, self))


def _operand(value: Any) -> Any:
    return value._connection.become(value, Operand) if type(value) is Remote else value


for _name in (*ARITHMETIC, *BITS):
    setattr(Operand, f"__{_name}__", _arithmetic(_name))
    setattr(Operand, f"__i{_name}__", _arithmetic(f"i{_name}"))
    setattr(Operand, f"__r{_name}__", _reflected(_name))


class Maker(Remote):
    """A class of the other process, by which this process makes objects."""

    __slots__ = ()

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return _operand(super().__call__(*args, **kwargs))


def _call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _enter(manager: Any) -> Any:
    return type(manager).__enter__(manager)


def _leave(manager: Any, error: BaseException | None) -> bool:
    return bool(type(manager).__exit__(manager, None if error is None else type(error), error, None))


def _leave_asynchronously(manager: Any, error: BaseException | None) -> bool:
    kind = None if error is None else type(error)
    return bool(coroutines.finish(type(manager).__aexit__(manager, kind, error, None)))


def _signature(function: Callable[..., Any]) -> Any:
    try:
        return importlib.import_module("inspect").signature(function)
    except (TypeError, ValueError) as error:
        raise AttributeError(str(error)) from None


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
    "hash": hash,
    "isinstance": isinstance,
    "issubclass": issubclass,
    "enter": _enter,
    "leave": _leave,
    "send": lambda generator, value: generator.send(value),
    "await": coroutines.finish,
    "aiter": lambda value: type(value).__aiter__(value),
    "anext": lambda value: coroutines.finish(type(value).__anext__(value)),
    "aenter": lambda value: coroutines.finish(type(value).__aenter__(value)),
    "aleave": _leave_asynchronously,
    "signature": _signature,
    "flags": lambda function: function.__code__.co_flags,
    "contains": operator.contains,
    "round": round,
    "reversed": reversed,
    **{name: getattr(operator, f"__{name}__") for name in (*ARITHMETIC, *BITS, *COMPARISONS, *UNARY[:4])},
    **{f"i{name}": getattr(operator, f"__i{name}__") for name in (*ARITHMETIC, *BITS)},
}
"""The operations that can be asked for; each one's first argument is the object."""

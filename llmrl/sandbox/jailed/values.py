"""Values of the standard library and of numpy as plain data: they are taken apart, and made again of the parts.

Only the types in LIBRARY are made, each by the function that stands there, from parts of exactly the listed types, so
making a value runs nothing but that type's constructor. Subclasses arrive as the type in the table. Named tuples, and
members of enumerations of numbers or text, arrive in an equal class that is made from names alone; a class that this
process has sent before is used again.
"""

from __future__ import annotations

import collections
import enum
import functools
import importlib
import inspect
import math
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_CHARACTER = 0x10FFFF


class Kind(NamedTuple):
    """One type of values: how a value is taken apart, the types that each part may have, and how a value is made.

    types: for each part a name, names joined by "|", or "*" for any type.
    """

    parts: Callable[[Any], list]
    types: str = "str"
    make: Callable[..., Any] = lambda kind, *parts: kind(*parts)

    def admits(self, parts: list) -> bool:
        """Return whether a value can be made of these parts."""
        wanted = self.types.split()
        return len(parts) == len(wanted) and all(
            names == "*" or name(type(part)) in names.split("|") for part, names in zip(parts, wanted, strict=True)
        )


def name(kind: type) -> str:
    """Return a type's name with that of its module, or the plain name of a builtin type."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


@functools.cache
def found(path: str) -> Any:
    """Import what a name in LIBRARY means; returns None for a type that has a name but no place.

    The answer stays the same when a test replaces the type for a while.
    """
    module, _, own = path.rpartition(".")
    return getattr(importlib.import_module(module or "builtins"), own, None)


def known(path: str) -> Any:
    """Return the builtin type, the type in LIBRARY, or the exception of a loaded library that has this name, or None.

    The exceptions by which test libraries themselves end, skip or fail tests are not among them.
    """
    module, _, own = path.rpartition(".")
    if not module or path in LIBRARY:
        kind = found(path)
        return kind if isinstance(kind, type) and name(kind) == path else None
    library = module.partition(".")[0]
    kind = getattr(sys.modules.get(module), own, None)
    if library == "unittest" or not (library in sys.stdlib_module_names or library == "numpy"):
        return None
    return kind if isinstance(kind, type) and issubclass(kind, BaseException) and name(kind) == path else None


def _text(value: Any) -> list:
    return [str(value)]


def _attributes(names: str) -> Callable[[Any], list]:
    return lambda value: [getattr(value, one) for one in names.split()]


def _given(value: Any, absent: Any) -> list:
    return [] if value is absent else [value]


def _counter(kind: type, counts: dict) -> Any:
    made = kind()
    dict.update(made, counts)
    return made


def _parameter(kind: type, own: str, place: int, default: list, annotation: list) -> Any:
    given = {**dict(zip(["default"], default, strict=False)), **dict(zip(["annotation"], annotation, strict=False))}
    return kind(own, inspect._ParameterKind(place), **given)


def _signature(kind: type, parameters: list, annotation: list) -> Any:
    if {type(one) for one in parameters} - {inspect.Parameter}:
        raise TypeError("expected parameters")
    return kind(parameters, **dict(zip(["return_annotation"], annotation, strict=False)))


def _namedtuple_parts(value: Any) -> list:
    _CLASSES["namedtuple", type(value).__name__, *type(value)._fields] = type(value)
    return [type(value).__name__, list(type(value)._fields), list(tuple.__iter__(value))]


def _namedtuple(kind: None, own: str, fields: list, items: list) -> Any:
    made = _made(lambda: collections.namedtuple(own, fields), "namedtuple", own, *fields)
    if len(fields) != len(items):
        raise ValueError("expected a value for each field")
    return tuple.__new__(made, items)


def _member_parts(value: Any) -> list:
    kind, base = type(value), type(value)._member_type_
    plain = issubclass(kind, enum.IntEnum | enum.StrEnum)
    members = {own: member.value for own, member in kind.__members__.items()}
    _CLASSES["enum", kind.__name__, base, plain, *members.items()] = kind
    return [kind.__name__, base, plain, members, value.name]


def _member(kind: None, own: str, base: type, plain: bool, members: dict, chosen: str) -> Any:
    """Make an enumeration and return one member. plain: whether the members print as their values."""
    if base not in (int, str, float) or not all(one.isidentifier() and one[0] != "_" for one in members):
        raise ValueError("expected names of numbers or of texts")
    if plain:
        make = functools.partial({int: enum.IntEnum, str: enum.StrEnum}[base], own, members)
    else:
        make = functools.partial(enum.Enum, own, members, type=base)
    return _made(make, "enum", own, base, plain, *members.items())[chosen]


def _made(make: Callable[[], Any], *key: Any) -> Any:
    if key not in _CLASSES:
        _CLASSES[key] = make()
        MADE.add(_CLASSES[key])
    return _CLASSES[key]


_CLASSES: dict[tuple, Any] = {}
MADE: set[type] = set()
"""The classes that were made here, which stand for classes of the other process."""


def _array_parts(value: Any) -> list:
    numpy = importlib.import_module("numpy")
    array = numpy.asarray(value)
    if not (array.dtype.kind == "O" or _DTYPE.fullmatch(array.dtype.str)):
        return []
    items = array.reshape(-1).tolist() if array.dtype.kind == "O" else array.tobytes()
    return [array.dtype.str, list(array.shape), items]


def _array(kind: Any, code: str, shape: list, items: bytes | list) -> Any:
    """Make an array of the items' bytes, or of the items themselves for an array of objects."""
    numpy = importlib.import_module("numpy")
    if type(items) is list:
        array = numpy.empty(len(items), dtype=object)
        array[:] = items
        return array.reshape(shape)
    if not _DTYPE.fullmatch(code):
        raise ValueError(f"no array of {code}")
    dtype = numpy.dtype(code)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(items):
        raise ValueError("the bytes do not fit the shape")
    if dtype.kind == "b":  # a byte other than 0 and 1 would be a truth of its own kind
        return (numpy.frombuffer(items, numpy.uint8) != 0).reshape(shape)
    array = numpy.ndarray(shape, dtype, buffer=items).copy()
    if dtype.kind == "U" and array.size and array.reshape(-1).view(f"{code[0]}u4").max() > MAX_CHARACTER:
        raise ValueError("no characters")
    return array


_DTYPE = re.compile(r"[<>|](?:[biufc][0-9]{1,2}|[SU][1-9][0-9]{0,6}|[mM]8(?:\[[0-9]{0,6}[a-zA-Z]{1,2}\])?)")

_TIME = "hour minute second microsecond tzinfo fold"
_ZONE = "NoneType|datetime.timezone|zoneinfo.ZoneInfo"

LIBRARY: dict[str, Kind] = {
    "slice": Kind(_attributes("start stop step"), "* * *"),
    "ellipsis": Kind(lambda value: [], "", lambda kind: ...),
    "NotImplementedType": Kind(lambda value: [], "", lambda kind: NotImplemented),
    "dict_keys": Kind(lambda value: [list(value)], "list", lambda kind, keys: dict.fromkeys(keys).keys()),
    "dict_values": Kind(lambda value: [list(value)], "list", lambda kind, items: dict(enumerate(items)).values()),
    "dict_items": Kind(lambda value: [list(value)], "list", lambda kind, pairs: dict(pairs).items()),
    "namedtuple": Kind(_namedtuple_parts, "str list list", _namedtuple),
    "enum": Kind(_member_parts, "str type bool dict str", _member),
    "datetime.date": Kind(_attributes("year month day"), "int int int"),
    "datetime.time": Kind(
        _attributes(_TIME),
        f"int int int int {_ZONE} int",
        lambda kind, *parts: kind(*parts[:-1], fold=parts[-1]),
    ),
    "datetime.datetime": Kind(
        _attributes(f"year month day {_TIME}"),
        f"int int int int int int int {_ZONE} int",
        lambda kind, *parts: kind(*parts[:-1], fold=parts[-1]),
    ),
    "datetime.timedelta": Kind(_attributes("days seconds microseconds"), "int int int"),
    "datetime.timezone": Kind(lambda value: [list(value.__getinitargs__())], "list", lambda kind, parts: kind(*parts)),
    "zoneinfo.ZoneInfo": Kind(_attributes("key")),
    "decimal.Decimal": Kind(_text),
    "fractions.Fraction": Kind(_attributes("numerator denominator"), "int int"),
    "collections.Counter": Kind(lambda value: [dict(value)], "dict", _counter),
    "collections.OrderedDict": Kind(lambda value: [list(value.items())], "list"),
    "collections.defaultdict": Kind(lambda value: [value.default_factory, dict(value)], "* dict"),
    "collections.deque": Kind(lambda value: [list(value), value.maxlen], "list int|NoneType"),
    "array.array": Kind(lambda value: [value.typecode, value.tolist()], "str list"),
    "uuid.UUID": Kind(_text),
    "pathlib.PosixPath": Kind(_text),
    "pathlib.PurePosixPath": Kind(_text),
    "ipaddress.IPv4Address": Kind(_text),
    "ipaddress.IPv6Address": Kind(_text),
    "re.Pattern": Kind(
        _attributes("pattern flags"), "str|bytes int", lambda kind, pattern, flags: re.compile(pattern, flags)
    ),
    "types.SimpleNamespace": Kind(lambda value: [vars(value)], "dict", lambda kind, names: kind(**names)),
    "types.GenericAlias": Kind(_attributes("__origin__ __args__"), "type tuple"),
    "inspect.Parameter": Kind(
        lambda value: [
            value.name,
            value.kind.value,
            _given(value.default, value.empty),
            _given(value.annotation, value.empty),
        ],
        "str int list list",
        _parameter,
    ),
    "inspect.Signature": Kind(
        lambda value: [list(value.parameters.values()), _given(value.return_annotation, value.empty)],
        "list list",
        _signature,
    ),
    "numpy.ndarray": Kind(_array_parts, "str list bytes|list", _array),
    "numpy.generic": Kind(
        _array_parts, "str list bytes", lambda kind, code, _, items: _array(kind, code, [], items)[()]
    ),
}
"""The types whose values are sent, by name; the most special comes first in a type's bases."""

SHARED = frozenset(
    {
        "collections.Counter",
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.deque",
        "array.array",
        "types.SimpleNamespace",
        "numpy.ndarray",
    }
)
"""The containers among them, which can be changed in place."""


for _path in LIBRARY:
    if _path.rpartition(".")[0] in sys.modules:
        found(_path)


def tag(kind: Any) -> str | None:
    """Return the name in LIBRARY of a type or of its nearest base there."""
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        return "namedtuple"
    if (
        issubclass(kind, enum.Enum)
        and not issubclass(kind, enum.Flag)
        and getattr(kind, "_member_type_", None) in (int, str, float)
    ):
        return "enum"
    return next((name(base) for base in kind.__mro__ if name(base) in LIBRARY), None)

"""The wire format: plain data over a socket, between two processes that need not trust each other.

A message is its length (4 bytes, big endian) and that many bytes of JSON. JSON's own values stand for themselves; any
other value is an object of one pair, a tag and its content: {"tuple": [1, 2]}. An object that cannot be copied is sent
as a reference: {"mine": number} from its owner, {"yours": number} back to the owner, and the other tags in REFERENCES.
A container that can be changed in place has what identifies it beside its content (see containers).

Subclasses of builtin types are read by the base type's own methods and arrive as the base type; values of the standard
library and numpy have a table of their own (see values). Decoding makes exact types and, through its caller,
references. Decoding runs no code of the other process, and raises WireError for any other data.
"""

from __future__ import annotations

import json
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import values

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 100
MAX_PLAIN_INT = 2**53
HEADER_BYTES = 4
PLAIN = frozenset({type(None), bool, str, float})
NESTED = frozenset({list, dict})

REFERENCES = frozenset({"mine", "yours", "generator", "coroutine", "awaitable", "class", "error"})
SHARED = frozenset({list, dict, set, bytearray})

Refer = Callable[..., Any]
Resolve = Callable[[str, Any], Any]


class WireError(Exception):
    """The data cannot be sent, or the received bytes are no message."""


def send(channel: socket.socket, message: bytes) -> None:
    """Send the bytes of `pack`; raises OSError, and causes no signal, if the other process no longer reads."""
    channel.sendall(len(message).to_bytes(HEADER_BYTES, "big") + message, socket.MSG_NOSIGNAL)


def receive(channel: socket.socket) -> Any:
    """Return the next message's JSON, not yet decoded; raises EOFError at the end, WireError for an invalid message."""
    length = int.from_bytes(_exactly(channel, HEADER_BYTES), "big")
    if length > MAX_BYTES:
        raise WireError(f"a message of {length} bytes is longer than {MAX_BYTES}")
    try:
        return json.loads(_exactly(channel, length).decode("ascii"))
    except (ValueError, RecursionError, MemoryError) as error:
        raise WireError(f"not a message: {error}") from None


def pack(message: Any) -> bytes:
    """Return encoded data as a message's bytes; raises WireError if they are too many."""
    packed = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(packed) > MAX_BYTES:
        raise WireError(f"{len(packed)} bytes of data are more than {MAX_BYTES}")
    return packed


def _exactly(channel: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = channel.recv(min(count, 1 << 20))
        if not part:
            raise EOFError("the other side has ended")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def encode(value: Any, refer: Refer, depth: int = MAX_DEPTH) -> Any:
    """Return `value` as JSON data.

    refer(value): makes the reference to an object that is no data, or raises WireError. refer(value, content): returns
    the data of a container that can be changed in place.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if depth == 0:
        raise WireError(f"data nested deeper than {MAX_DEPTH}")
    if isinstance(value, type) and values.known(values.name(value)) is value:
        return {"type": values.name(value)}
    if kind in SHARED:
        return refer(value, _ENCODERS[kind](value, refer, depth - 1))
    if kind in _ENCODERS:
        return _ENCODERS[kind](value, refer, depth - 1)
    tag = values.tag(kind)
    if tag is not None:
        parts = values.LIBRARY[tag].parts(value)
        if values.LIBRARY[tag].admits(parts):
            content = {tag: [_part(part, refer, depth - 1) for part in parts]}
            return refer(value, content) if tag in values.SHARED else content
    base = next((base for base in _ENCODERS if issubclass(kind, base)), None)
    if base is None:
        return refer(value)
    content = _ENCODERS[base](value, refer, depth - 1)
    return refer(value, content) if base in SHARED else content


def _part(value: Any, refer: Refer, depth: int) -> Any:
    """Encode a part of a value; a container that was made to hold parts is no container of the value's."""
    return _ENCODERS[type(value)](value, refer, depth) if type(value) in SHARED else encode(value, refer, depth)


def _int(value: int, refer: Refer, depth: int) -> Any:
    plain = int.__int__(value)
    return plain if -MAX_PLAIN_INT <= plain <= MAX_PLAIN_INT else {"int": hex(plain)}


def _dict(value: dict, refer: Refer, depth: int) -> Any:
    # dict.items does not know the order of an OrderedDict, which is kept beside the dict
    pairs = list(OrderedDict.items(value) if isinstance(value, OrderedDict) else dict.items(value))
    keys, values = [key for key, _ in pairs], [item for _, item in pairs]
    return {"dict": [_list(keys, refer, depth), _list(values, refer, depth)]}


def _parts(value: complex) -> list[float]:
    return [value.real, value.imag]


def _bounds(value: range) -> tuple[int, int, int]:
    return value.start, value.stop, value.step


def _list(value: list, refer: Refer, depth: int) -> list:
    """Encode a list; one of plain data alone is returned at once, to spend little of a program's CPU time."""
    items = list(list.__iter__(value))
    kinds = set(map(type, items))
    if kinds <= PLAIN or (kinds == {int} and max(items) <= MAX_PLAIN_INT and min(items) >= -MAX_PLAIN_INT):
        return items
    return [encode(item, refer, depth) for item in items]


def _tagged(tag: str, iterate: Callable[[Any], Iterator[Any]]) -> Callable[[Any, Refer, int], Any]:
    return lambda value, refer, depth: {tag: _list(list(iterate(value)), refer, depth)}


_ENCODERS: dict[type, Callable[[Any, Refer, int], Any]] = {
    int: _int,
    list: _list,
    dict: _dict,
    tuple: _tagged("tuple", tuple.__iter__),
    str: lambda value, refer, depth: str.__str__(value),
    float: lambda value, refer, depth: float.__float__(value),
    set: _tagged("set", set.__iter__),
    frozenset: _tagged("frozenset", frozenset.__iter__),
    bytes: lambda value, refer, depth: {"bytes": bytes.hex(value)},
    bytearray: lambda value, refer, depth: {"bytearray": bytearray.hex(value)},
    complex: lambda value, refer, depth: {"complex": _parts(complex.__complex__(value))},
    range: lambda value, refer, depth: {"range": [_int(part, refer, 0) for part in _bounds(value)]},
}


def decode(data: Any, resolve: Resolve, depth: int = 2 * MAX_DEPTH) -> Any:
    """Return the value that JSON `data` means; `resolve` finds the object of a reference ("mine"/"yours", number)."""
    kind = type(data)
    if kind is not list and kind is not dict:
        return data
    if depth == 0:
        raise WireError("data nested too deep")
    if kind is list:
        if not NESTED & set(map(type, data)):
            return data
        return [decode(item, resolve, depth - 1) for item in data]
    try:
        ((tag, body),) = data.items()
        if tag in REFERENCES:
            return resolve(tag, body)
        if tag == "shared":
            number, changed, content = body
            return resolve(tag, [number, changed, decode(content, resolve, depth - 1)])
        if tag in values.LIBRARY:
            return _decode_value(tag, body, resolve, depth - 1)
        return _DECODERS[tag](body, resolve, depth - 1)
    except WireError:
        raise
    except Exception as error:
        raise WireError(f"not data: {type(error).__name__}: {error}") from None


def _decode_value(tag: str, body: Any, resolve: Resolve, depth: int) -> Any:
    kind, parts = values.LIBRARY[tag], decode(_exact(body, list), resolve, depth)
    if not kind.admits(parts):
        raise TypeError(f"other parts than those of {tag}")
    return kind.make(values.found(tag), *parts)


def _exact(body: Any, kind: type) -> Any:
    if type(body) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {type(body).__name__}")
    return body


def _made(kind: type) -> Callable[[Any, Resolve, int], Any]:
    return lambda body, resolve, depth: kind(decode(_exact(body, list), resolve, depth))


def _decode_dict(body: Any, resolve: Resolve, depth: int) -> dict:
    keys, values = decode(_exact(body, list), resolve, depth)
    return dict(zip(_exact(keys, list), _exact(values, list), strict=True))


def _decode_complex(body: Any, resolve: Resolve, depth: int) -> complex:
    real, imaginary = body
    return complex(_exact(real, float), _exact(imaginary, float))


def _decode_range(body: Any, resolve: Resolve, depth: int) -> range:
    start, stop, step = decode(_exact(body, list), resolve, depth)
    return range(_exact(start, int), _exact(stop, int), _exact(step, int))


def _decode_type(body: Any, resolve: Resolve, depth: int) -> type:
    kind = values.known(_exact(body, str))
    if kind is None:
        raise ValueError(f"no type {body}")
    return kind


_DECODERS: dict[str, Callable[[Any, Resolve, int], Any]] = {
    "int": lambda body, resolve, depth: int(_exact(body, str), 16),
    "tuple": _made(tuple),
    "set": _made(set),
    "frozenset": _made(frozenset),
    "dict": _decode_dict,
    "bytes": lambda body, resolve, depth: bytes.fromhex(_exact(body, str)),
    "bytearray": lambda body, resolve, depth: bytearray.fromhex(_exact(body, str)),
    "complex": _decode_complex,
    "range": _decode_range,
    "type": _decode_type,
}

from __future__ import annotations

import collections
import enum
import json
import math
import random
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest

import llmrl.sandbox

sys.path.append(str(Path(llmrl.sandbox.__file__).parent / "jailed"))

import wire


def refuses(value):
    raise wire.WireError(f"a {type(value).__name__} cannot be sent")


def knows_none(whose, number):
    raise KeyError(number)


def there_and_back(value):
    """Return the value that the other process gets from the bytes of a message."""
    return wire.decode(json.loads(wire.pack(wire.encode(value, refuses))), knows_none)


def same(one, other) -> bool:
    """Return whether both are equal and have equal types at any depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset):
        return one == other and {type(item) for item in one} == {type(item) for item in other}
    return one == other or (one != one and other != other)


VALUES = [
    None,
    True,
    0,
    -7,
    2**53,
    2**53 + 1,
    -(2**200),
    0.1,
    -0.0,
    1e308,
    math.inf,
    -math.inf,
    math.nan,
    "",
    "naïve ∑ \x00 \ud800",
    b"\x00\xff",
    bytearray(b"ab"),
    complex(1.5, -math.inf),
    [],
    [1, [2, (3,)]],
    (),
    ((1, 2), [3]),
    set(),
    {1, "a", (2, 3)},
    frozenset({frozenset(), 1}),
    {},
    {"a": 1, 2: [3], (4, 5): {"b": None}, None: 1.5},
    {"tuple": [1]},  # this dict looks like an encoded tuple
    range(3, 100, 7),
    range(2**70),
    int,
    [str, ValueError],
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_arrive_as_they_are(value):
    assert same(there_and_back(value), value)


def test_random_nests_arrive_as_they_are():
    generator = random.Random(0)
    leaves = [None, True, 3, 2**80, 0.5, "x", b"y", 1j]

    def nest(depth):
        if depth == 0 or generator.random() < 0.3:
            return generator.choice(leaves)
        items = [nest(depth - 1) for _ in range(generator.randrange(4))]
        return generator.choice([list, tuple, lambda x: dict(enumerate(x))])(items)

    for _ in range(300):
        value = nest(6)
        assert same(there_and_back(value), value)


def test_negative_zero_keeps_its_sign():
    assert math.copysign(1, there_and_back(-0.0)) == -1


# Subclasses of builtin types


class LyingInt(int):
    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1

    def __int__(self):
        return 99

    def __index__(self):
        return 99

    def __repr__(self):
        return "99"


class LyingStr(str):
    def __str__(self):
        return "lie"

    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class LyingList(list):
    def __iter__(self):
        return iter([9, 9])

    def __len__(self):
        return 2

    def __eq__(self, other):
        return True


class LyingDict(dict):
    def items(self):
        return [("lie", 1)]


class LyingFloat(float):
    def __float__(self):
        return 9.5

    def __repr__(self):
        return "9.5"


class Color(enum.IntEnum):
    RED = 3


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (LyingInt(4), 4),
        (LyingStr("abc"), "abc"),
        (LyingList([1]), [1]),
        (LyingDict({"a": 1}), {"a": 1}),
        (LyingFloat(0.5), 0.5),
        (Color.RED, 3),
        (Point(1, 2), (1, 2)),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.defaultdict(list, {1: [2]}), {1: [2]}),
        ([LyingInt(1), (LyingStr("s"),)], [1, ("s",)]),
    ],
    ids=repr,
)
def test_subclasses_arrive_as_the_base_type(value, plain):
    assert same(there_and_back(value), plain)


def test_an_ordered_dict_keeps_its_order():
    ordered = collections.OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    assert list(there_and_back(ordered)) == ["b", "a"]


def test_numpys_numbers_and_arrays_are_plain():
    assert same(there_and_back(numpy.int64(3)), 3)
    assert same(there_and_back(numpy.float32(0.5)), 0.5)
    assert same(there_and_back(numpy.bool_(True)), True)
    assert same(there_and_back([numpy.arange(4).reshape(2, 2)]), [[[0, 1], [2, 3]]])


def test_numpy_is_not_imported():
    code = (
        f"import sys; sys.path.append({str(Path(wire.__file__).parent)!r}); import wire; print('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# Objects and JSON that are no data


class Plain:
    pass


def kind(value) -> str:
    return type(value).__name__


@pytest.mark.parametrize("value", [Plain(), len, lambda: 1, iter([]), Plain, sys, [Plain()], {"a": Plain()}], ids=kind)
def test_other_objects_need_a_reference(value):
    with pytest.raises(wire.WireError, match="cannot be sent"):
        wire.encode(value, refuses)


def test_references_go_through_the_callers_tables():
    mine = Plain()
    data = wire.encode([mine, {"k": mine}], lambda value: {"mine": 5})
    assert data == [{"mine": 5}, {"dict": [["k"], [{"mine": 5}]]}]
    decoded = wire.decode(data, lambda whose, number: (whose, number))
    assert decoded == [("mine", 5), {"k": ("mine", 5)}]


def test_data_that_holds_itself_is_refused():
    held: list = []
    held.append(held)
    with pytest.raises(wire.WireError, match="nested deeper than 100"):
        wire.encode(held, refuses)


def test_depth_up_to_the_limit_arrives():
    value: tuple = ()
    for _ in range(98):
        value = (value,)
    assert there_and_back(value) == value


DEEP = 0
for _ in range(300):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "data",
    [
        {"no_such_tag": 1},
        {"tuple": 1},
        {"tuple": "ab"},
        {"tuple": [], "set": []},
        {},
        {"dict": [[1]]},
        {"dict": [[1], []]},
        {"dict": [[[]], [1]]},
        {"dict": [{"tuple": [1]}, [1]]},
        {"dict": 5},
        {"set": [[1]]},
        {"set": [{"dict": [[], []]}]},
        {"int": "zz"},
        {"int": 5},
        {"int": None},
        {"bytes": "0"},
        {"bytes": [1]},
        {"complex": [1, 2]},
        {"complex": [1.0]},
        {"range": [1, 2]},
        {"range": [1, 2, 0]},
        {"range": [1.0, 2, 1]},
        {"type": "eval"},
        {"type": "__loader__"},
        {"type": "builtins.int"},
        {"type": ["int"]},
        {"mine": "1"},
        {"mine": True},
        {"yours": 3},
        DEEP,
    ],
    ids=lambda data: repr(data)[:40],
)
def test_invalid_json_is_an_error(data):
    with pytest.raises(wire.WireError):
        wire.decode(data, knows_none)


# Messages


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_messages_keep_their_bounds(ends):
    ours, theirs = ends
    for message in ([1], "two", {"dict": []}):
        wire.send(ours, wire.pack(message))
    assert [wire.receive(theirs) for _ in range(3)] == [[1], "two", {"dict": []}]


def test_a_message_of_megabytes_arrives(ends):
    ours, theirs = ends
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(wire.receive, theirs)
        wire.send(ours, wire.pack("x" * 5_000_000))
        assert received.result() == "x" * 5_000_000


def test_data_that_is_too_long_is_not_packed():
    with pytest.raises(wire.WireError, match="more than 16777216"):
        wire.pack("x" * 2**24)


def test_the_end_of_the_stream_has_its_own_error(ends):
    ours, theirs = ends
    ours.sendall(b"\x00\x00\x00\x05ab")
    ours.close()
    with pytest.raises(EOFError):
        wire.receive(theirs)


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x03abc",
        b"\x00\x00\x00\x02\xc3\xa9",
        (200_000).to_bytes(4, "big") + b"[" * 200_000,
        (10_000).to_bytes(4, "big") + b"1" * 10_000,
    ],
    ids=lambda raw: repr(raw[:12]),
)
def test_bytes_that_are_no_message(ends, raw):
    ours, theirs = ends
    ours.settimeout(5)
    try:
        ours.sendall(raw)
    except TimeoutError:  # the message is longer than the socket's buffer
        pytest.fail("the other side must read all of it")
    with pytest.raises(wire.WireError):
        wire.receive(theirs)

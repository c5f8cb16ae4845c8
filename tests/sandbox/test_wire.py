from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import inspect
import json
import math
import pathlib
import random
import re
import socket
import subprocess
import sys
import types
import uuid
import zoneinfo
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy
import pytest

import llmrl.sandbox

sys.path.append(str(Path(llmrl.sandbox.__file__).parent / "jailed"))

import wire


def refuses(value, content=None):
    if content is not None:
        return content
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
    if isinstance(one, numpy.ndarray):
        return one.tolist() == other.tolist()
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


class LyingDate(datetime.date):
    def __eq__(self, other):
        return True

    __hash__ = datetime.date.__hash__


class LyingFraction(Fraction):
    def __eq__(self, other):
        return True

    __hash__ = Fraction.__hash__


class LyingCounter(collections.Counter):
    def __eq__(self, other):
        return True


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (LyingInt(4), 4),
        (LyingStr("abc"), "abc"),
        (LyingList([1]), [1]),
        (LyingDict({"a": 1}), {"a": 1}),
        (LyingFloat(0.5), 0.5),
        (LyingDate(2020, 1, 2), datetime.date(2020, 1, 2)),
        (LyingFraction(1, 2), Fraction(1, 2)),
        (LyingCounter("aab"), collections.Counter("aab")),
        (numpy.ma.array([1, 2]), numpy.array([1, 2])),
        ([LyingInt(1), (LyingStr("s"),)], [1, ("s",)]),
    ],
    ids=repr,
)
def test_subclasses_arrive_as_the_base_type(value, plain):
    assert same(there_and_back(value), plain)


# Values of libraries


class Color(enum.IntEnum):
    RED = 3
    BLUE = 4


class Word(enum.StrEnum):
    YES = "yes"


class Half(float, enum.Enum):
    HALF = 0.5


Point = collections.namedtuple("Point", "x y")
ZONE = datetime.timezone(datetime.timedelta(hours=2), "there")
LIBRARY_VALUES = [
    datetime.date(2020, 1, 2),
    datetime.time(1, 2, 3, 4, ZONE, fold=1),
    datetime.datetime(2020, 1, 2, 3, tzinfo=zoneinfo.ZoneInfo("UTC")),
    datetime.timedelta(days=-1, microseconds=5),
    ZONE,
    decimal.Decimal("1.50"),
    Fraction(-2, 3),
    collections.deque([1, [2]], maxlen=5),
    collections.Counter("aab"),
    collections.OrderedDict(b=1, a=2),
    collections.defaultdict(list, {1: [2]}),
    array.array("d", [0.5, 2.0]),
    uuid.UUID(int=7),
    pathlib.PurePosixPath("/a/b"),
    re.compile("a+", re.IGNORECASE),
    types.SimpleNamespace(a=[1]),
    slice(1, None, 2),
    ...,
    list[int],
    decimal.Decimal,
    json.JSONDecodeError,
    Color.RED,
    Word.YES,
    Half.HALF,
    Point(1, [2]),
    inspect.signature(lambda a, b=2, *, c: None),
]


@pytest.mark.parametrize("value", LIBRARY_VALUES, ids=lambda value: type(value).__name__)
def test_values_of_libraries_arrive_as_they_are(value):
    arrived = there_and_back(value)
    assert type(arrived) is type(value)
    assert arrived == value
    assert repr(arrived) == repr(value)


def test_an_ordered_dict_keeps_its_order():
    ordered = collections.OrderedDict(a=1, b=2)
    ordered.move_to_end("a")
    assert list(there_and_back(ordered)) == ["b", "a"]


def test_views_of_a_dict_compare_like_views():
    assert there_and_back({1: 2}.keys()) == {1: 3}.keys()
    assert there_and_back({1: 2}.items()) == {1: 2}.items()
    assert list(there_and_back({1: 2}.values())) == [2]


def test_a_class_of_the_other_process_is_made_from_names():
    data = {"namedtuple": ["Pair", ["left", "right"], [1, 2]]}
    one, other = wire.decode(data, knows_none), wire.decode(data, knows_none)
    assert one.left == 1
    assert one == (1, 2)
    assert type(one) is type(other) is not tuple
    member = wire.decode({"enum": ["Size", {"type": "int"}, True, {"dict": [["S", "L"], [1, 5]]}, "L"]}, knows_none)
    assert (member, member.name, member.value) == (5, "L", 5)


ARRAYS = [
    numpy.arange(6, dtype=numpy.int16).reshape(2, 3),
    numpy.zeros((0, 4)),
    numpy.array(3.5),
    numpy.array([True, False]),
    numpy.array(["ab", "\U0010ffff"]),
    numpy.array([b"ab"]),
    numpy.array([1 + 2j], dtype=numpy.complex64),
    numpy.array(["2020-01-02"], dtype="M8[D]"),
    numpy.array([1, 2], dtype=">i4"),
    numpy.array([[1, "a"], [None, (2,)]], dtype=object),
    numpy.arange(6).reshape(2, 3).T,
]


@pytest.mark.parametrize("value", ARRAYS, ids=lambda value: f"{value.dtype}{list(value.shape)}")
def test_arrays_arrive_with_type_and_shape(value):
    arrived = there_and_back(value)
    assert type(arrived) is numpy.ndarray
    assert (arrived.dtype, arrived.shape, arrived.tolist()) == (value.dtype, value.shape, value.tolist())
    assert arrived.flags.writeable


@pytest.mark.parametrize("value", [numpy.int64(3), numpy.float32(0.1), numpy.bool_(True), numpy.datetime64("2020")])
def test_numbers_of_numpy_keep_their_type(value):
    assert there_and_back(value) == value
    assert type(there_and_back(value)) is type(value)


def test_an_array_of_records_needs_a_reference():
    with pytest.raises(wire.WireError, match="ndarray cannot be sent"):
        wire.encode(numpy.zeros(2, dtype=[("a", int)]), refuses)


def test_a_byte_that_is_no_truth_value_becomes_true():
    forged = wire.decode({"numpy.ndarray": ["|b1", [2], {"bytes": "0200"}]}, knows_none)
    assert forged.tobytes() == b"\x01\x00"


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
    data = wire.encode([mine, {"k": mine}], lambda value, content=None: {"mine": 5} if content is None else content)
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
        {"datetime.date": [2020, 13, 1]},
        {"datetime.date": ["2020", 1, 1]},
        {"datetime.date": [2020, 1]},
        {"datetime.time": [1, 1, 1, 1, "zone", 0]},
        {"decimal.Decimal": [1.5]},
        {"decimal.Decimal": ["x"]},
        {"fractions.Fraction": [1, 0]},
        {"collections.deque": [[1], -1]},
        {"collections.Counter": [[1]]},
        {"collections.defaultdict": [5, {"dict": [[], []]}]},
        {"array.array": ["q", ["a"]]},
        {"zoneinfo.ZoneInfo": ["../../etc/passwd"]},
        {"re.Pattern": ["(", 0]},
        {"namedtuple": ["P", ["__eq__"], [1]]},
        {"namedtuple": ["P", ["x"], [1, 2]]},
        {"namedtuple": ["P): pass", ["x"], [1]]},
        {"enum": ["E", {"type": "int"}, True, {"dict": [["__eq__"], [1]]}, "__eq__"]},
        {"enum": ["E", {"type": "float"}, True, {"dict": [["A"], [0.5]]}, "A"]},
        {"enum": ["E", {"type": "list"}, False, {"dict": [["A"], [[]]]}, "A"]},
        {"numpy.ndarray": ["<i8", [2**40], {"bytes": "00"}]},
        {"numpy.ndarray": ["<i8", [-1], {"bytes": "0000000000000000"}]},
        {"numpy.ndarray": ["|O", [1], {"bytes": "0000000000000000"}]},
        {"numpy.ndarray": ["<U1", [1], {"bytes": "ffffffff"}]},
        {"numpy.ndarray": ["<i8,<i8", [0], {"bytes": ""}]},
        {"numpy.ndarray": ["|O", [3], [1]]},
        {"numpy.generic": ["<i8", [0], {"bytes": ""}]},
        {"type": "os.system"},
        {"type": "subprocess.Popen"},
        {"type": "unittest.case.SkipTest"},
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

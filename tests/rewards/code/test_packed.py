from __future__ import annotations

import base64
import json
import os
import pickle
import zlib

import pytest

from llmrl.rewards.code.packed import is_packed, unpacked

CASES = json.dumps([{"input": "[1]\n2", "output": "3", "testtype": "functional"}] * 20)


def packed(value: object, *, protocol: int | None = None, level: int = -1) -> str:
    return packed_bytes(pickle.dumps(value, protocol), level=level)


def packed_bytes(data: bytes, *, level: int = -1) -> str:
    return base64.b64encode(zlib.compress(data, level)).decode()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("level", range(10))
def test_a_text_is_read_as_pickle_reads_it(protocol, level):
    for value in (CASES, "é\\u0041\n" * 300, ""):
        text = packed(value, protocol=protocol, level=level)
        assert is_packed(text)
        assert unpacked(text) == pickle.loads(zlib.decompress(base64.b64decode(text))) == value


def test_other_texts_are_not_packed():
    for text in ("assert f(1) == 2", CASES, "eJw", "", "def check(candidate):\n    pass", "eA = 1"):
        assert not is_packed(text)


class Spy:
    """An object whose pickle would call a function that leaves a trace."""

    def __reduce__(self):
        return os.mkdir, ("pickle_was_run",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_but_a_text_is_accepted(protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in (Spy(), [Spy()], ["a"], {"a": "b"}, b"bytes", 5, None, ("a", "b")):
        with pytest.raises(ValueError, match=r"no pickle of one text: (its opcode [A-Z_0-9]+ is|it has)"):
            unpacked(packed(value, protocol=protocol))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eJxzzs", "cannot be unpacked"),
        (base64.b64encode(b"x\x9c" + b"no zlib data").decode(), "cannot be unpacked"),
        (packed(CASES)[:40], "cut short"),
        (packed_bytes(b"\x80\x04\x8c"), "no pickle of one text"),
        (packed_bytes(b"."), "it has 0 texts"),
        (packed_bytes(b"\x8c\x01a\x8c\x01b."), "it has 2 texts"),
    ],
)
def test_what_cannot_be_read_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        unpacked(text)


def test_the_size_is_bounded():
    bomb = packed(" " * 5_000_000)
    assert len(bomb) < 10_000
    assert len(unpacked(bomb)) == 5_000_000
    with pytest.raises(ValueError, match="more than 1,000,000 bytes"):
        unpacked(bomb, max_bytes=1_000_000)

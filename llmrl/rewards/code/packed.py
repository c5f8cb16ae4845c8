"""Reading of packed tests: base64 of zlib of a pickle of a text, as LiveCodeBench's private tests are stored.

The pickle is never run: its opcodes are read one by one, and only those of a single text are accepted.
"""

from __future__ import annotations

import base64
import binascii
import pickletools
import re
import zlib

MAX_BYTES = 512 * 2**20
"""The size that packed tests may have when unpacked."""

_PACKED = re.compile(r"\s*e[AFJN][A-Za-z0-9+/\s]{8,}={0,2}\s*")  # zlib's first two bytes, in base64
_TEXT = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_AROUND = {"PROTO", "FRAME", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "STOP"}


def is_packed(text: str) -> bool:
    """Return whether the text looks like base64 of zlib's data."""
    return _PACKED.fullmatch(text) is not None


def unpacked(text: str, *, max_bytes: int = MAX_BYTES) -> str:
    """Return the text that was packed; raises ValueError, with the reason, for anything else."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(base64.b64decode(text), max_bytes)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"packed tests cannot be unpacked: {error}") from None
    if unpacker.unconsumed_tail:
        raise ValueError(f"packed tests have more than {max_bytes:,} bytes")
    if not unpacker.eof:
        raise ValueError("packed tests are cut short")
    return _pickled_text(data)


def _pickled_text(data: bytes) -> str:
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _TEXT:
                texts.append(str(argument))
            elif opcode.name not in _AROUND:
                raise ValueError(f"its opcode {opcode.name} is no text's")
    except ValueError as error:
        raise ValueError(f"packed tests are no pickle of one text: {error}") from None
    if len(texts) != 1:
        raise ValueError(f"packed tests are no pickle of one text: it has {len(texts)} texts")
    return texts[0]

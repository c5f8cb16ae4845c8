"""Helpers that make system calls in programs in a sandbox."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from programs import printed

from llmrl.sandbox import Sandbox, seccomp

NEEDS_LIBRARY = pytest.mark.skipif(seccomp._library() is None, reason="libseccomp.so.2 is not installed")

PRELUDE = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
room = ctypes.create_string_buffer(4096)
def call(number, *arguments):
    values = [ctypes.c_long(ctypes.addressof(room) if value == "room" else value) for value in arguments]
    result = libc.syscall(ctypes.c_long(number), *values)
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "done"
"""
"""The beginning of a program that makes system calls by call(number, *arguments); "room" means a buffer of zeros."""


def number(name: str) -> int:
    library = seccomp._library()
    assert library
    return library.seccomp_syscall_resolve_name(name.encode())


@contextlib.contextmanager
def without_library() -> Iterator[None]:
    """Let the sandbox find no libseccomp in the block."""
    seccomp.system_call_filter.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seccomp, "_library", lambda: None)
        yield
    seccomp.system_call_filter.cache_clear()


def answer(sandbox: Sandbox, source: str) -> str:
    """Return the output of a program that can make system calls and must end well."""
    return printed(sandbox, PRELUDE + source)


def answers(sandbox: Sandbox, calls: dict[str, tuple]) -> dict[str, str]:
    """Return each call's answer, without the calls that this machine or its libseccomp does not know."""
    known = {name: (number(name), *arguments) for name, arguments in calls.items() if number(name) >= 0}
    source = f"import json; print(json.dumps({{name: call(*c) for name, c in {known!r}.items()}}))"
    return json.loads(answer(sandbox, source))

"""The filter of system calls cannot be bypassed, and a sandbox without libseccomp reports that it has no filter."""

from __future__ import annotations

import ctypes
import errno
import platform
import signal

import pytest
from programs import run
from system_calls import NEEDS_LIBRARY, PRELUDE, answer, without_library

from llmrl.sandbox import NAMESPACES, PROCESS, Sandbox, SandboxError, Tier, seccomp


@NEEDS_LIBRARY
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other machines have one way to make system calls")
def test_other_ways_to_make_a_call_end_the_program(filtered: Sandbox) -> None:
    x32 = run(filtered, PRELUDE + "print(call(0x40000000 | 39))")
    assert (x32.ended, x32.signal) == ("killed", signal.SIGSYS)
    # mov eax, 20 (getpid); int 0x80; ret
    source = """
import mmap
code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))
print(ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
"""
    old = run(filtered, PRELUDE + source)
    assert (old.ended, old.stdout) == ("killed", b"")
    assert old.signal in (signal.SIGSYS, signal.SIGSEGV)  # a kernel without 32-bit calls sends SIGSEGV


@NEEDS_LIBRARY
def test_the_filter_outlives_exec_and_fork(contained: Sandbox) -> None:
    inner = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.unshare(0x10000000), ctypes.get_errno())"
    source = f"import subprocess\nprint(subprocess.check_output([sys.executable, '-c', {inner!r}]).decode(), end='')"
    assert answer(contained, source) == f"-1 {errno.EPERM}"


@NEEDS_LIBRARY
def test_a_filter_is_a_program_that_the_kernel_takes() -> None:
    filters = [seccomp.system_call_filter(contained=contained) for contained in (True, False)]
    assert filters[0] != filters[1]
    for code in filters:
        assert code is not None
        assert len(code) % 8 == 0
        assert 0 < len(code) // 8 <= 4096  # BPF_MAXINSNS


@pytest.mark.parametrize("tier", [NAMESPACES, PROCESS], ids=lambda tier: tier.name)
def test_without_libseccomp_the_filter_is_reported_as_missing(tier: Tier) -> None:
    with without_library():
        assert seccomp.system_call_filter(contained=True) is None
        assert seccomp.system_call_filter(contained=False) is None
        try:
            sandbox = Sandbox(tier)
        except SandboxError as error:
            pytest.skip(str(error))
        with sandbox:
            assert "a system call filter (libseccomp.so.2 is not installed)" in sandbox.missing
            assert answer(sandbox, "print(libc.unshare(0))") == "0"  # the filter would deny this call
            assert answer(sandbox, "print(6 * 7)") == "42"


@NEEDS_LIBRARY
def test_with_libseccomp_no_filter_is_missing(filtered: Sandbox) -> None:
    assert not any("filter" in lack for lack in filtered.missing)


def test_a_machine_without_the_library_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ctypes.CDLL:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(seccomp.ctypes, "CDLL", absent)
    assert seccomp._library() is None

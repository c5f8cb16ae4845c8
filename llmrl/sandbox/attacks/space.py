"""Attacks on memory, disk, files and output."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import resource
import signal
import socket
import sys
import time

from llmrl.sandbox.attacks.attack import LOOK_SECONDS, attack, ended_by
from llmrl.sandbox.attacks.hostile import attempt, breached, call, hide_memory, libc, targets, trying


@attack()
def memory_bomb():
    """Take four times the memory that is allowed, in one process."""
    held = []
    while len(held) < 4 * targets.limits["memory_mb"]:
        held.append(b"\1" * 2**20)
    breached(f"{len(held)} MB")


@attack()
def memory_of_many():
    """Take more memory than allowed in many processes, each below the limit."""
    reading, writing = os.pipe()
    share = targets.limits["memory_mb"] * 6 // 10
    for _ in range(6):
        if os.fork() == 0:
            held = b"\1" * (share << 20)
            os.write(writing, b"%d\n" % len(held))
            time.sleep(60)
    got = b""
    while got.count(b"\n") < 6:
        got += os.read(reading, 100)
    time.sleep(0.3)
    breached(f"{6 * share} MB")


@attack(real=True)
def memory_hidden_in_shared_mappings():
    """Hold memory that no process is charged for, in pages of shared mappings that were unmapped."""
    hide_memory(-1, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)


@attack(real=True)
def memory_hidden_in_dev_zero():
    """Hold memory that no process is charged for, in shared mappings of /dev/zero."""
    hide_memory(os.open("/dev/zero", os.O_RDWR), mmap.MAP_SHARED)


@attack()
def memory_in_unnamed_files():
    """Take memory in files made by memfd_create."""
    descriptor = call("memfd_create", b"x", 0)
    held = 0
    while descriptor >= 0 and held < targets.limits["memory_mb"]:
        held += os.write(descriptor, b"\1" * 2**20) >> 20
    breached(f"{held} MB") if held else None


@attack()
def memory_in_shared_segments():
    """Take memory in System V shared segments, which outlive their program."""
    if (segment := call("shmget", 0, 64 << 20, 0o1600)) >= 0:
        breached()
        libc.shmctl(segment, 0, None)


@attack(cpu_seconds=5.0)
def memory_in_pipes_and_sockets():
    """Take more memory than allowed in the kernel's buffers, from all processes together."""
    reading, writing = os.pipe()
    for _ in range(targets.limits["processes"] + 1):
        with trying():
            if os.fork() == 0:
                held, block, pairs = 0, b"\1" * 65536, []
                with trying():
                    while True:
                        pairs.append(socket.socketpair())
                        for end in pairs[-1]:
                            call("setsockopt", end.fileno(), 1, 7, ctypes.byref(ctypes.c_int(1 << 22)), 4)
                            end.setblocking(False)
                            with trying():
                                while True:
                                    held += end.send(block)
                os.write(writing, b"%d\n" % held)
                time.sleep(60)
    os.close(writing)
    time.sleep(1.5)
    held = sum(int(line) for line in os.read(reading, 4096).split()) >> 20
    if held > targets.limits["memory_mb"]:
        breached(f"{held} MB")


@attack()
def memory_in_swap():
    """Have pages written to swap, where they do not count as resident."""
    mapped = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    if libc.madvise(ctypes.c_void_p(place), ctypes.c_size_t(1 << 20), 21) == 0:
        breached()


@attack()
def locked_memory():
    """Keep memory from being swapped out."""
    mapped = mmap.mmap(-1, 1 << 22, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    if libc.mlock(ctypes.c_void_p(place), ctypes.c_size_t(1 << 22)) == 0 or libc.mlockall(3) == 0:
        breached()


@attack()
def full_disk():
    """Write twice what is allowed into many files, and go on for longer than it takes to look at them."""
    written, passed, block = 0, 0.0, b"\1" * (targets.limits["output_kb"] << 10)
    for number in itertools.count():
        with open(f"{number}", "wb", buffering=0) as file:
            written += file.write(block)
        if written > 2 * targets.limits["disk_mb"] << 20:
            passed = passed or time.monotonic()
            if time.monotonic() > passed + LOOK_SECONDS:
                return breached(f"{written >> 20} MB")


@attack()
def full_disk_of_deleted_files():
    """Write twice what is allowed into deleted files, in many processes."""
    reading, writing = os.pipe()
    block = b"\1" * (targets.limits["output_kb"] << 10)
    for _ in range(targets.limits["processes"]):
        with trying():
            if os.fork() == 0:
                held = []
                with trying():
                    while True:
                        held.append(os.open("x", os.O_CREAT | os.O_WRONLY))
                        os.unlink("x")
                        os.write(writing, b"1" * (os.write(held[-1], block) >> 18))
                time.sleep(60)
    time.sleep(1)
    os.set_blocking(reading, False)
    if (quarters := len(os.read(reading, 65536))) // 4 > 2 * targets.limits["disk_mb"]:
        breached(f"{quarters // 4} MB")


@attack()
def many_files():
    """Make twenty thousand empty files, each of which costs the file system a little."""
    for number in range(20000):
        os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY))
    breached()


@attack()
def deep_folders():
    """Make folders inside folders, deeper than whoever deletes them can go."""
    for _ in range(20000):
        os.mkdir("d")
        os.chdir("d")
    breached()


@attack()
def huge_file():
    """Make one file larger than allowed, by writing, by stretching, or by reserving."""
    size = targets.limits["output_kb"] << 10
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    file = os.open("x", os.O_CREAT | os.O_RDWR)
    with trying():
        os.posix_fallocate(file, 0, 4 * size)
    with trying():
        os.ftruncate(file, 1 << 40)
    with trying():
        os.pwrite(file, b"x", 1 << 40)
    with trying():
        while True:
            os.write(file, b"x" * 65536)
    if max(os.fstat(file).st_size, os.fstat(file).st_blocks * 512) > size:
        breached()


@attack(judge=ended_by("output"))
def flood_of_output():
    """Print without end."""
    while True:
        print("x" * 1000)


@attack(judge=ended_by("output"))
def flood_of_errors():
    """Print to stderr without end."""
    while True:
        sys.stderr.write("x" * 1000)


@attack()
def flood_of_many():
    """Print without end from many processes that ignore the limit's signal, past the end of the kept output."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for _ in range(3):
        os.fork()
    for position in itertools.count(0, 1 << 16):
        with trying():
            os.pwrite(1 + position % 2, b"x" * 65536, position)


@attack()
def many_open_files():
    """Open more files than allowed."""
    held = []
    with trying():
        while len(held) <= 2 * targets.limits["open_files"]:
            held.append(os.open("/dev/null", os.O_RDONLY))
    if len(held) > targets.limits["open_files"]:
        breached(f"{len(held)}")


@attack()
def raised_limits():
    """Lift one's own limits, or let the system's collector of crashes write what this one leaves."""
    for kind in range(16):
        soft, hard = resource.getrlimit(kind)
        for wanted in ((hard + 1, hard + 1), (resource.RLIM_INFINITY,) * 2):
            if hard != resource.RLIM_INFINITY and attempt(resource.setrlimit, kind, wanted):
                breached(f"{kind}: {soft}, {hard} to {wanted}")
    if attempt(resource.setrlimit, resource.RLIMIT_CORE, (0, 0)) and resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        breached("cores")

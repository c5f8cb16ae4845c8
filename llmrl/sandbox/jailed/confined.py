"""From a copy of the warm interpreter to a program that can do no harm."""

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
BARE_PROCESSES = 2  # the supervisor and the program's first


def become_program(limits: dict, files: dict, home: str, told: int, setting: Setting) -> None:
    """Confine this process, then run what the payload says; what goes wrong before is told. Never returns."""
    code = 1
    try:
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
    """For this process and all that it starts, for good: privileges, files but those named, and system calls."""
    _bound(resource.RLIMIT_CORE, 1, 1)  # 0 would still start a program of the system's that collects cores
    kernel.drop_privileges()
    if config["landlock"]:
        kernel.restrict_paths(readable, [home, "/dev/null"])
    if system_calls:
        kernel.filter_system_calls(bytes.fromhex(system_calls))


def standard_streams() -> None:
    """Make sys.stdin, stdout and stderr before any program: like a program's own files, on files in memory."""
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
    """Standard streams at 0 to 2, then the report, the pipe to the supervisor and the channel; nothing else is open.

    Returns the report's, the channel's (-1 if there is none) and the pipe's.
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
        signal.signal(number, signal.SIG_DFL)  # Python ignores them
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    size, cpu = limits["output_kb"] * 1024, int(limits["cpu_seconds"]) + 2
    bounds = {
        resource.RLIMIT_AS: (limits["memory_mb"] * 2**20,) * 2,
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_FSIZE: (size, size),
        resource.RLIMIT_NOFILE: (limits["open_files"],) * 2,
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_SIGPENDING: (256, 256),
    }
    if setting.nested and setting.config["counts_apart"]:
        bounds[resource.RLIMIT_NPROC] = (limits["processes"] + BARE_PROCESSES,) * 2
    for kind, (soft, hard) in bounds.items():
        _bound(kind, soft, hard)
    kernel.set_dumpable(True)
    if setting.nested:  # the rest was done by the supervisor, and is inherited
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

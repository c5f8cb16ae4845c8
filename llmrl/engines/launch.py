"""Starting a command once per device of this machine, as torch.distributed expects it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from types import FrameType

GRACE_SECONDS = 20.0
PR_SET_PDEATHSIG = 1


def launch(command: Sequence[str], count: int) -> int:
    """Run `command` as ranks 0 to count - 1; returns 0, or the exit code of the first rank that failed.

    SIGINT and SIGTERM are passed on. When one rank fails the others have GRACE_SECONDS to end by themselves.
    If this process is killed they get SIGTERM.
    """
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    ranks: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        for rank in ranks:
            rank.send_signal(number)

    follow = _follow(os.getpid())
    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for index in range(count):
            own = {name: str(value) for name, value in (shared | {"RANK": index, "LOCAL_RANK": index}).items()}
            ranks.append(subprocess.Popen(command, env=os.environ | own, preexec_fn=follow))
        return _wait(ranks)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(launcher: int) -> Callable[[], None]:
    """A function that a new rank runs first, so that it ends with its launcher."""
    libc = ctypes.CDLL(None)  # loaded here, to do as little as possible between fork and exec

    def follow() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != launcher:  # the launcher was killed before the call
            os._exit(128 + signal.SIGTERM)

    return follow


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    failed, deadline = 0, float("inf")
    while time.monotonic() < deadline:
        codes = [rank.poll() for rank in ranks]
        if not failed and any(codes):
            failed, deadline = next(filter(None, codes)), time.monotonic() + GRACE_SECONDS
        if None not in codes:
            break
        time.sleep(0.1)
    return 128 - failed if failed < 0 else failed  # a shell's code for a process that a signal ended


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

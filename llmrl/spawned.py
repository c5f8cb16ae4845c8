"""Child processes that run functions of other people: spawned, killable, and ended with their parent.

They are spawned, never forked, so they hold neither the parent's model nor its threads, and they do not import the
parent's script, which may lack a `__main__` guard.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable
from multiprocessing import connection, spawn
from multiprocessing.context import SpawnProcess
from typing import Any

NAME = "llmrl_"
"""The beginning of these processes' names."""
MESSAGE_CHARACTERS = 500
_SPAWN = multiprocessing.get_context("spawn")


class CrashError(Exception):
    """The function raised something other than ValueError, or took its process down with it."""


def start(serve: Callable[..., None], *args: Any, name: str) -> tuple[connection.Connection, SpawnProcess]:
    """Starts a process that runs `serve(pipe, *args)`; returns the other end of the pipe, and the process."""
    _hide_main()
    pipe, own = _SPAWN.Pipe()
    process = _SPAWN.Process(target=serve, args=(own, *args), name=NAME + name)
    process.start()
    own.close()  # so that the pipe ends with the process
    return pipe, process


def settle(memory_bytes: int | None = None) -> None:
    """Makes the process that calls this the head of a group that ends with its parent; caps the memory it may map."""
    # A signal to the trainer's process group must not reach this process: the trainer still needs the step's answers.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # Numeric libraries reserve memory per thread; on a large machine that alone could reach the cap.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    if memory_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        cap = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (cap, hard))


def kill(process: SpawnProcess) -> None:
    """Kill a process that has settled, and those that it has started."""
    process.kill()
    if process.pid is not None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)


def described(error: BaseException) -> str:
    """An exception's type and message, cut to MESSAGE_CHARACTERS."""
    try:
        message = str(error)
    except Exception:
        message = "(its message could not be printed)"
    return f"{type(error).__name__}: {message}"[:MESSAGE_CHARACTERS]


def _hide_main() -> None:
    """Keep these processes from importing the parent's script; other users of multiprocessing are not affected."""
    if getattr(spawn.get_preparation_data, "hides_main", False):
        return
    original = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        if name.startswith(NAME):
            data.pop("init_main_from_name", None)
            data.pop("init_main_from_path", None)
        return data

    get_preparation_data.hides_main = True  # pyright: ignore[reportFunctionMemberAccess]
    spawn.get_preparation_data = get_preparation_data


def _exit_with_parent() -> None:
    """End with the parent; a function stuck in a loop would otherwise outlive a killed trainer."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)

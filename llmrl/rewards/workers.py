"""A pool of killable processes for reward functions that may hang, crash or eat memory."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import multiprocessing
import os
import pickle
import resource
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, spawn
from types import TracebackType
from typing import Any

from pebble import ProcessExpired, ProcessPool
from pebble.pool.process import WORKERS_NAME

MESSAGE_CHARACTERS = 500


class CrashError(Exception):
    """The function raised something other than ValueError, or took its process down with it."""


class Workers:
    """`count` processes that run functions under a deadline; one that passes its deadline is killed and replaced.

    Processes are spawned, never forked, so they hold neither the parent's model nor its threads, and they do
    not import the main script. Each may map at most `memory_gb` GiB of memory. The pool starts at the first `run`.
    """

    def __init__(self, count: int, *, memory_gb: float = 4.0):
        self.count = count
        self._memory_bytes = int(memory_gb * 2**30)
        self._modules: list[str] = []
        self._pool: ProcessPool | None = None

    def warm(self, modules: Iterable[str]) -> None:
        """Adds modules that a process imports, outside any deadline, before its first task.

        A module's `warm_up()`, if it has one, is called too: slow, lazy imports belong there.
        """
        # The pool pickles this very list whenever it starts a process, so later processes see later modules.
        self._modules.extend(name for name in modules if name not in self._modules)

    async def run(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], deadline_seconds: float
    ) -> Any:
        """`function(*args, **kwargs)` in another process; the deadline begins when a process takes the call.

        Raises TimeoutError past the deadline, ValueError if the function raised one or if the call cannot
        be sent to another process, CrashError for any other exception or the death of the process.
        """
        if getattr(function, "__module__", None) == "__main__":
            raise ValueError(f"{function.__qualname__} is defined in the script being run: move it to a module")
        try:
            call = pickle.dumps((function, args, kwargs))
        except Exception as error:
            raise ValueError(f"cannot be sent to a worker process: {error}") from None
        pool = self._started()
        try:
            outcome, payload = await asyncio.wrap_future(
                pool.schedule(_run_pickled, args=(call,), timeout=deadline_seconds)
            )
        except TimeoutError:
            raise TimeoutError(f"ran past its deadline of {deadline_seconds:g} seconds") from None
        except ProcessExpired as error:
            raise CrashError(f"its process died with exit code {error.exitcode}") from None
        except BrokenProcessPool as error:
            self._discard(pool)
            raise CrashError(f"the worker pool broke: {error}") from None
        if outcome == "invalid":
            raise ValueError(payload)
        if outcome == "crash":
            raise CrashError(payload)
        return pickle.loads(payload)

    def close(self) -> None:
        """Kill running calls and end the processes."""
        if self._pool is not None:
            self._discard(self._pool)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> ProcessPool:
        if self._pool is not None and not self._pool.active:  # it broke while idle
            self._discard(self._pool)
        if self._pool is None:
            _hide_main()
            self._pool = ProcessPool(
                max_workers=self.count,
                initializer=_start_process,
                initargs=(self._memory_bytes, self._modules),
                context=multiprocessing.get_context("spawn"),  # pyright: ignore[reportArgumentType]
            )
        return self._pool

    def _discard(self, pool: ProcessPool) -> None:
        if self._pool is pool:
            self._pool = None
            pool.stop()
            pool.join()


def _hide_main() -> None:
    """Keep pool processes from importing the parent's script, which may lack a `__main__` guard.

    multiprocessing tells each spawned process the parent's main module, except processes of our pools. Other users of
    multiprocessing in this program are not affected.
    """
    if getattr(spawn.get_preparation_data, "hides_main", False):
        return
    original = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, Any]:
        data = original(name)
        if name == WORKERS_NAME:
            data.pop("init_main_from_name", None)
            data.pop("init_main_from_path", None)
        return data

    get_preparation_data.hides_main = True  # pyright: ignore[reportFunctionMemberAccess]
    spawn.get_preparation_data = get_preparation_data


def _start_process(memory_bytes: int, modules: list[str]) -> None:
    # A signal to the trainer's process group must not reach this process: the trainer still needs the step's grades.
    os.setpgid(0, 0)
    # Without a handler in Python, a kill also ends a function that never leaves C.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # Numeric libraries reserve memory per thread; on a large machine that alone could reach the cap.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    cap = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (cap, hard))
    for name in modules:
        # A module that cannot be imported must not break the pool: each call that needs it fails with a message.
        with contextlib.suppress(Exception):
            module = importlib.import_module(name)
            getattr(module, "warm_up", lambda: None)()


def _exit_with_parent() -> None:
    """End with the parent; a function stuck in a loop would otherwise outlive a killed trainer."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _run_pickled(call: bytes) -> tuple[str, Any]:
    """Unpickle, call, pickle: all here, so that nothing a function does can break the pool's own pipes."""
    try:
        function, args, kwargs = pickle.loads(call)
        return "returned", pickle.dumps(function(*args, **kwargs))
    except ValueError as error:
        return "invalid", _describe(error)
    except BaseException as error:
        return "crash", _describe(error)


def _describe(error: BaseException) -> str:
    try:
        message = str(error)
    except Exception:
        message = "(its message could not be printed)"
    return f"{type(error).__name__}: {message}"[:MESSAGE_CHARACTERS]

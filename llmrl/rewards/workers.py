"""A pool of killable processes for reward functions that may hang, crash or eat memory.

Each process has a pipe of its own and one call at a time, so that the fate of a process is that of its call alone.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection
from types import TracebackType
from typing import Any

from llmrl.spawned import CrashError, described, kill, settle, start

START_SECONDS = 300.0
"""The time that a process may take to import its modules, or to take a call."""
START_ATTEMPTS = 3
PROCESS_NAME = "reward_worker"
LOOK_SECONDS = 0.2


class Workers:
    """`count` processes that run functions under a deadline; one that passes its deadline is killed and replaced.

    Processes are spawned, never forked, so they hold neither the parent's model nor its threads, and they do
    not import the main script. Each may map at most `memory_gb` GiB of memory. They start as calls need them.
    """

    def __init__(self, count: int, *, memory_gb: float = 4.0):
        self.count = count
        self._memory_bytes = int(memory_gb * 2**30)
        self._modules: list[str] = []
        self._lock = threading.Lock()
        self._threads: ThreadPoolExecutor | None = None  # each has one process at a time
        self._idle: list[_Process] = []
        self._processes: set[_Process] = set()

    def warm(self, modules: Iterable[str]) -> None:
        """Adds modules that a process imports, outside any deadline, before its first task.

        A module's `warm_up()`, if it has one, is called too: slow, lazy imports belong there.
        """
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
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.count, thread_name_prefix=PROCESS_NAME)
            atexit.register(self.close)  # runs before multiprocessing waits for its children
        outcome, payload = await asyncio.wrap_future(self._threads.submit(self._call, call, deadline_seconds))
        if outcome == "invalid":
            raise ValueError(payload)
        if outcome == "crash":
            raise CrashError(payload)
        return pickle.loads(payload)

    def close(self) -> None:
        """Kill running calls and end the processes."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is None:
            return
        atexit.unregister(self.close)
        for process in list(self._processes):
            process.kill()
        threads.shutdown(cancel_futures=True)
        for process in list(self._processes):
            self._end(process)
        self._idle.clear()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, call: bytes, deadline_seconds: float) -> tuple[str, Any]:
        """The call's outcome. A process that ends before it takes the call says nothing of the call, which then goes to
        another."""
        for _ in range(START_ATTEMPTS):
            process, result = self._process(), None
            try:
                if process.takes(call):
                    result = process.result(deadline_seconds)
                    return result
            except TimeoutError:
                raise TimeoutError(f"ran past its deadline of {deadline_seconds:g} seconds") from None
            except EOFError:
                raise CrashError(f"its process died with exit code {self._end(process)}") from None
            finally:
                if result is None:
                    self._end(process)
                else:
                    self._idle.append(process)
        raise CrashError(f"{START_ATTEMPTS} worker processes ended before they took the call")

    def _process(self) -> _Process:
        """An idle process, or a new one."""
        with self._lock:
            if self._threads is None:
                raise CrashError("the worker processes were closed")
            if self._idle:
                return self._idle.pop()
            process = _Process(self._memory_bytes, self._modules)
            self._processes.add(process)
            return process

    def _end(self, process: _Process) -> int | None:
        """End a process; returns its exit code."""
        with self._lock:  # multiprocessing collects exit codes when it starts a process, and two threads lose one
            self._processes.discard(process)
            return process.end()


class _Process:
    """A worker process and the parent's end of its pipe."""

    def __init__(self, memory_bytes: int, modules: Sequence[str]):
        self._pipe, self._process = start(_serve, memory_bytes, list(modules), name=PROCESS_NAME)
        self._ready = False

    def takes(self, call: bytes) -> bool:
        """Send a call; returns whether the process has begun with it."""
        try:
            if not self._ready:
                self._receive(START_SECONDS)
                self._ready = True
            self._pipe.send_bytes(call)
            self._receive(START_SECONDS)
        except (OSError, EOFError):  # a TimeoutError is an OSError
            return False
        return True

    def result(self, deadline_seconds: float) -> tuple[str, Any]:
        """The outcome of the call; raises TimeoutError past the deadline, EOFError if the process ended."""
        return pickle.loads(self._receive(deadline_seconds))

    def kill(self) -> None:
        """Kill the process, and those that it has started."""
        if not self._pipe.closed:
            kill(self._process)

    def end(self) -> int | None:
        """Kill the process if it has not ended by itself; returns its exit code."""
        self.kill()
        self._process.join()
        self._pipe.close()
        return self._process.exitcode

    @property
    def _id(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def _receive(self, seconds: float) -> bytes:
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            ended = self._has_ended()  # a process that this one started may hold the pipe open, so look at both
            if self._pipe.poll(0.0 if ended else max(0.0, min(left, LOOK_SECONDS))):
                try:
                    return self._pipe.recv_bytes()
                except OSError as error:
                    raise EOFError from error
            if ended:
                raise EOFError
            if left <= 0:
                raise TimeoutError

    def _has_ended(self) -> bool:
        """Whether the process has ended; it stays a zombie, so that its id still names its group."""
        try:
            return os.waitid(os.P_PID, self._id, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:  # another thread has looked
            return True


def _serve(pipe: connection.Connection, memory_bytes: int, modules: Sequence[str]) -> None:
    """Answer calls one after the other: say that the process is ready, that it has taken a call, and the outcome."""
    _start_process(memory_bytes, modules)
    with contextlib.suppress(EOFError, OSError):
        pipe.send_bytes(b"ready")
        while True:
            call = pipe.recv_bytes()
            pipe.send_bytes(b"taken")
            pipe.send_bytes(pickle.dumps(_run_pickled(call)))


def _start_process(memory_bytes: int, modules: Sequence[str]) -> None:
    settle(memory_bytes)
    for name in modules:
        # A module that cannot be imported must not end the process: each call that needs it fails with a message.
        with contextlib.suppress(Exception):
            module = importlib.import_module(name)
            getattr(module, "warm_up", lambda: None)()


def _run_pickled(call: bytes) -> tuple[str, Any]:
    """Unpickle, call, pickle: all here, so that nothing a function does can break the pipe."""
    try:
        function, args, kwargs = pickle.loads(call)
        return "returned", pickle.dumps(function(*args, **kwargs))
    except ValueError as error:
        return "invalid", described(error)
    except BaseException as error:
        return "crash", described(error)

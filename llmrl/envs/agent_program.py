"""An agent at work: a process, a thread or a coroutine that asks the policy, and what came of it in the end."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

from llmrl.errors import short
from llmrl.pieces import Piece

MOST_OUTPUT_BYTES = 2**20
"""The end of what a command writes, of which the last line is its result."""
KILL_SECONDS = 5.0


class AgentFailed(Exception):
    """An agent that crashed, or that never asked the policy."""


@dataclass(frozen=True)
class Result:
    """An agent's result. answer: the text that rewards read, None for the policy's last text; metrics:
    numbers of the episode."""

    answer: str | None = None
    reward: float | None = None
    solved: bool | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Program(Protocol):
    """A started agent."""

    ended: asyncio.Future[Result]

    async def close(self) -> None:
        """Kill what is left of it."""
        ...


def result_of(given: Any) -> Result:
    """The result that a value stands for: a text, a reward, or a mapping of both; raises ValueError for any other.

    The mapping may have answer (a text), reward (a number), solved (a bool) and further numbers, which become metrics.
    """
    if given is None or isinstance(given, str):
        return Result(given)
    if isinstance(given, bool):
        return Result(reward=float(given), solved=given)
    if not isinstance(given, Mapping):
        return Result(reward=_number("reward", given))
    answer, solved = given.get("answer"), given.get("solved")
    if answer is not None and not isinstance(answer, str):
        raise ValueError(f"answer: got {short(answer)}, expected a text")
    if solved is not None and not isinstance(solved, bool):
        raise ValueError(f"solved: got {short(solved)}, expected true or false")
    numbers = {str(key): _number(str(key), one) for key, one in given.items() if key not in ("answer", "solved")}
    return Result(answer, numbers.pop("reward", None), solved, numbers)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise ValueError(f"{name}: got {short(value)}, expected a finite number")
    return number


class Function:
    """A Python function at work: a coroutine in the event loop, or any other function in a thread of its own.

    A thread cannot be killed. One that is closed gets no further answer from the endpoint, and ends when it asks or
    with the process.
    """

    def __init__(self, piece: Piece, data: Mapping[str, Any]):
        self.ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None
        if inspect.iscoroutinefunction(piece.function):
            self._task = asyncio.create_task(self._awaited(piece(data)))
        else:
            loop = asyncio.get_running_loop()
            work = threading.Thread(target=self._worked, args=(piece, data, loop), name="agent", daemon=True)
            work.start()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=KILL_SECONDS)
        self.ended.cancel()

    async def _awaited(self, work: Any) -> None:
        try:
            self._end(result_of(await work))
        except Exception as error:  # an agent may raise anything
            self._end(error)

    def _worked(self, piece: Piece, data: Mapping[str, Any], loop: asyncio.AbstractEventLoop) -> None:
        try:
            found: Result | Exception = result_of(piece(data))
        except Exception as error:  # an agent may raise anything
            found = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(self._end, found)

    def _end(self, found: Result | Exception) -> None:
        if self.ended.done():
            return
        if isinstance(found, Exception):
            self.ended.set_exception(AgentFailed(f"raised {type(found).__name__}: {found}"))
            self.ended.exception()  # or asyncio reports it where nobody asks for it
        else:
            self.ended.set_result(found)


class Command:
    """A command at work, the leader of a process group that is killed with it.

    It reads the row as JSON from its standard input. Its last line on standard output, if it is a JSON object, is its
    result; an exit code other than 0 is a failure, told with the last line on standard error.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], told: str):
        self.ended: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._process: asyncio.subprocess.Process | None = None
        self._work = asyncio.create_task(self._run(command, variables, told))

    async def close(self) -> None:
        self._work.cancel()
        await asyncio.wait({self._work}, timeout=KILL_SECONDS)
        self.ended.cancel()

    async def _run(self, command: Sequence[str], variables: Mapping[str, str], told: str) -> None:
        try:
            found = await self._result(command, variables, told)
        except (AgentFailed, OSError, ValueError) as error:
            if not self.ended.done():
                self.ended.set_exception(error if isinstance(error, AgentFailed) else AgentFailed(str(error)))
                self.ended.exception()  # or asyncio reports it where nobody asks for it
        else:
            if not self.ended.done():
                self.ended.set_result(found)

    async def _result(self, command: Sequence[str], variables: Mapping[str, str], told: str) -> Result:
        with TemporaryFile() as given, TemporaryFile() as printed, TemporaryFile() as complained:
            given.write(told.encode())
            given.seek(0)
            code = await self._exit_code(command, variables, given, printed, complained)
            if code != 0:
                ended = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
                raise AgentFailed(f"{ended}: {_last_line(complained) or 'it wrote nothing to its standard error'}")
            try:
                found = json.loads(_last_line(printed))
            except ValueError:
                return Result()
            return result_of(found) if isinstance(found, Mapping) else Result()

    async def _exit_code(self, command: Sequence[str], variables: Mapping[str, str], *files: IO[bytes]) -> int:
        """The exit code of the command, whose process group is dead afterwards.

        Its standard streams are files: a pipe would stay open as long as a process that it left behind.
        """
        given, printed, complained = files
        process = await asyncio.create_subprocess_exec(
            *command, stdin=given, stdout=printed, stderr=complained, env={**os.environ, **variables},
            start_new_session=True,
        )  # fmt: skip
        _guard().follow(process.pid)
        try:
            return await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            _guard().forget(process.pid)


def _last_line(file: IO[bytes]) -> str:
    """The last line that is not empty, of what was written into a file."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_OUTPUT_BYTES))
    lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


class _Guard:
    """A process that kills the followed process groups when this process is gone, even by SIGKILL."""

    def __init__(self) -> None:
        script = str(Path(__file__).with_name("agent_guard.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", script], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            start_new_session=True, text=True, bufsize=1,
        )  # fmt: skip

    def follow(self, group: int) -> None:
        """Kill the group with this process."""
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """The group has ended."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.write(line)


_GUARDS: dict[int, _Guard] = {}


def _guard() -> _Guard:
    """This process's guard."""
    if os.getpid() not in _GUARDS:
        _GUARDS.clear()
        _GUARDS[os.getpid()] = _Guard()
    return _GUARDS[os.getpid()]

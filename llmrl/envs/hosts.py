"""Host processes: a few processes hold many foreign worlds, whose calls have deadlines.

A world that raises fails alone. A world that hangs, or that takes its process down, ends the process: the episodes in
it fail and are begun anew in another one, as after any failure of an environment.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import itertools
import os
import pickle
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

from llmrl.envs.host import Answer, Foreign, serve
from llmrl.envs.world import Outcome
from llmrl.spawned import CrashError, kill, start

START_SECONDS = 300.0
"""The time that a host may take to start."""
LOOK_SECONDS = 0.2
MOST = 8

_NUMBERS = itertools.count()


@dataclass
class _Call:
    """A call under way. name: of the environment and the call, for messages."""

    name: str
    deadline_seconds: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Outcome | None]
    sent: float = field(default_factory=time.monotonic)


class Hosts:
    """At most `count` processes, which start as worlds need them; a new world goes to the one that has the fewest."""

    def __init__(self, count: int):
        self.count = count
        self._hosts: list[_Host] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    def world(
        self, make: Callable[..., Foreign], settings: Mapping[str, Any], *, name: str, deadline_seconds: float
    ) -> HostedWorld:
        """The world `make(**settings)`, which is made in a host when it is reset.

        make: a function or class that can be imported. name: of the environment, for messages. deadline_seconds: for
        each call, from the moment at which the host turns to it.
        """
        return HostedWorld(self, make, settings, name, deadline_seconds)

    def take(self) -> _Host:
        """The host for a new world."""
        with self._lock:
            self._hosts = [host for host in self._hosts if not host.lost]
            if len(self._hosts) < self.count:
                self._hosts.append(_Host())
                return self._hosts[-1]
            return min(self._hosts, key=lambda host: host.worlds)

    def close(self) -> None:
        """End the processes; calls under way fail."""
        atexit.unregister(self.close)
        with self._lock:
            hosts, self._hosts = self._hosts, []
        for host in hosts:
            host.end()


@functools.cache
def shared(count: int | None = None) -> Hosts:
    """The process's hosts; count: default: half of the cores, at most MOST."""
    return Hosts(count or max(1, min((os.cpu_count() or 1) // 2, MOST)))


class HostedWorld:
    """A World whose work is done in a host process.

    Every call raises TimeoutError past the deadline, ValueError if the world raised one, and CrashError for any other
    exception, for the death of the process, and for an end of the process that another world brought about.
    """

    def __init__(
        self,
        hosts: Hosts,
        make: Callable[..., Foreign],
        settings: Mapping[str, Any],
        name: str,
        deadline_seconds: float,
    ):
        self._hosts, self._make, self._settings = hosts, make, settings
        self._name, self._deadline = name, deadline_seconds
        self._number = next(_NUMBERS)
        self._host: _Host | None = None

    async def reset(self, seed: int) -> Outcome:
        given = pickle.dumps((self._make, self._settings, seed))
        self._host = self._hosts.take()
        self._host.worlds += 1
        outcome = await self._call("reset", given)
        assert outcome is not None
        return outcome

    async def act(self, action: str) -> Outcome:
        outcome = await self._call("act", action)
        assert outcome is not None
        return outcome

    async def close(self) -> None:
        """Close the world; one whose host has ended is closed."""
        host = self._host
        if host is None or host.lost:
            return
        host.worlds -= 1
        with contextlib.suppress(CrashError):
            await self._call("close", None)

    def _call(self, kind: str, given: Any) -> asyncio.Future[Outcome | None]:
        if self._host is None:
            raise RuntimeError(f"{self._name}: {kind} before reset")
        loop = asyncio.get_running_loop()
        call = _Call(f"{kind} of {self._name}", self._deadline, loop, loop.create_future())
        self._host.send(call, (self._number, kind, given))
        return call.future


class _Host:
    """A host process, a thread that writes its calls and a thread that reads its answers.

    The threads make the host independent of any event loop, and a process that does not read holds up nobody.
    """

    def __init__(self) -> None:
        self.worlds = 0
        self.lost = False
        self._why = "its host process was closed"
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._pending: dict[int, _Call] = {}
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._pipe, self._process = start(serve, name="environment_host")
        for work in (self._write, self._read):
            threading.Thread(target=work, name="environment_host", daemon=True).start()

    def send(self, call: _Call, message: tuple[int, str, Any]) -> None:
        """Queue a call; its future gets the answer."""
        with self._lock:
            if self.lost:
                raise CrashError(f"{call.name}: {self._why}")
            number = next(self._numbers)
            self._pending[number] = call
            self._outbox.put((number, *message))

    def end(self) -> None:
        """End the process; the read thread then fails the calls under way."""
        kill(self._process)

    def _write(self) -> None:
        """Send calls, all that wait as one message, until the host is lost."""
        with contextlib.suppress(OSError):
            while (first := self._outbox.get()) is not None:
                calls = [first]
                while not self._outbox.empty():
                    calls.append(self._outbox.get())
                if calls[-1] is None:
                    return
                self._pipe.send_bytes(pickle.dumps(calls))

    def _read(self) -> None:
        """Hand over answers until the process ends, or until it is ended because a call has passed its deadline."""
        try:
            if not self._look(START_SECONDS):
                raise TimeoutError(f"its host process did not start within {START_SECONDS:g} seconds")
            self._pipe.recv_bytes()
            self._serve_answers()
        except TimeoutError as error:
            self._lose("timeout", str(error))
        except (EOFError, OSError):
            self._lose("crash")

    def _serve_answers(self) -> None:
        """Hand over answers; raises EOFError with the process, TimeoutError where the oldest call is late."""
        turned = time.monotonic()  # when the host turned to the oldest call, unless that was sent later
        while True:
            with self._lock:
                oldest = next(iter(self._pending.values()), None)
            if oldest is None:
                self._look(LOOK_SECONDS)
            else:
                left = max(turned, oldest.sent) + oldest.deadline_seconds - time.monotonic()
                if not self._look(min(left, LOOK_SECONDS)) and left <= 0:
                    raise TimeoutError(f"ran past its deadline of {oldest.deadline_seconds:g} seconds")
            answers: list[Answer] = []
            while self._pipe.poll():
                answers.append(pickle.loads(self._pipe.recv_bytes()))
            if answers:
                turned = time.monotonic()
                self._hand_over(answers)

    def _look(self, seconds: float) -> bool:
        """Whether there is something to read; raises EOFError once the process has ended and all is read."""
        found = connection.wait([self._pipe, self._process.sentinel], max(seconds, 0.0))
        if self._pipe in found:
            return True
        if found:
            raise EOFError
        return False

    def _hand_over(self, answers: list[Answer]) -> None:
        """Give every answer to its future, in one wake-up of each event loop."""
        ended: dict[asyncio.AbstractEventLoop, list[tuple[_Call, str, Any]]] = defaultdict(list)
        with self._lock:
            for number, outcome, payload in answers:
                call = self._pending.pop(number)
                ended[call.loop].append((call, outcome, payload))
        for loop, calls in ended.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_settle_calls, calls)

    def _lose(self, kind: str, fault: str | None = None) -> None:
        """End the process; the oldest call, which was under way, is told the fault, and all others whose it was."""
        kill(self._process)
        self._process.join()
        fault = fault or f"its host process died with exit code {self._process.exitcode}"
        with self._lock:
            self.lost = True
            calls = list(self._pending.values())
            self._pending.clear()
            guilty = f"in another world's call: {calls[0].name}: {fault}" if calls else f"between calls: {fault}"
            self._why = f"its host process ended {guilty}"
        self._outbox.put(None)
        self._pipe.close()
        outcomes = [(kind, fault), *[("crash", self._why)] * len(calls)]
        for call, outcome in zip(calls, outcomes, strict=False):
            with contextlib.suppress(RuntimeError):
                call.loop.call_soon_threadsafe(_settle_calls, [(call, *outcome)])


_FAULTS: dict[str, type[Exception]] = {"timeout": TimeoutError, "invalid": ValueError, "crash": CrashError}


def _settle_calls(calls: list[tuple[_Call, str, Any]]) -> None:
    """Give calls their outcomes, in the event loop that waits for them."""
    for call, outcome, payload in calls:
        if call.future.done():  # cancelled
            continue
        if outcome == "returned":
            call.future.set_result(payload)
        else:
            call.future.set_exception(_FAULTS[outcome](f"{call.name}: {payload}"))
            call.future.exception()  # or asyncio reports one that nobody waits for

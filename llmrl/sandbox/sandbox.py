"""The class Sandbox, which starts a jail and runs untrusted programs in it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import socket
import subprocess
import tempfile
import threading
from dataclasses import asdict
from types import TracebackType
from typing import Any

from llmrl.sandbox.jailed import folders
from llmrl.sandbox.limits import Execution, Limits, Program, SandboxError
from llmrl.sandbox.seccomp import system_call_filter
from llmrl.sandbox.tiers import PROCESS, Tier, landlock_version, launch, tiers

START_SECONDS = 20.0
END_SECONDS = 5.0
GRACE_SECONDS = 20.0
"""A supervisor may take this much longer than its program's wall limit to report how the program ended."""
ANSWER_BYTES = 1 << 16


class Sandbox:
    """A jail with a warm interpreter; any number of programs run at once, each confined and apart from the others.

    tier: the tier to use; default: the strongest that works here. allow_weak: whether the default may be a tier without
    namespaces. Several threads may use one Sandbox; a forked process that uses it gets a new jail. Raises SandboxError,
    with each tier's reason, if no allowed tier works.
    """

    def __init__(self, tier: Tier | None = None, *, allow_weak: bool = False):
        self._lock = threading.Lock()
        self._idle: list[_Supervisor] = []
        self._process = os.getpid()
        self._closed = False
        self._refused = []
        for candidate in (tier,) if tier else tiers():
            if not candidate.strong and not (allow_weak or tier):
                self._refused.append(f"{candidate.name}: not allowed (allow_weak)")
                continue
            try:
                self._jail = _Jail(candidate)
                self.tier = candidate
                return
            except (OSError, SandboxError) as error:
                self._refused.append(f"{candidate.name}: {error}")
        raise SandboxError(f"no sandbox can be had here: {'; '.join(self._refused)}")

    @property
    def pid(self) -> int:
        """The number of the process that all processes in the jail descend from."""
        return self._jail.pid

    @property
    def idle(self) -> int:
        """The number of supervisors that wait in the jail for a program."""
        return len(self._idle)

    @property
    def missing(self) -> list[str]:
        """The protections that this sandbox lacks, with reasons."""
        jail, lacks = self._jail, []
        if not self.tier.strong:
            lacks += [*self._refused, "namespaces of its own", "an exact limit on all files together"]
        if not jail.nested:
            lacks.append("starting processes")
        if jail.nested and jail.view == "one":
            lacks.append("limits on CPU and memory of all processes together (no /proc shows them)")
        if self.tier.strong and not jail.nested:
            lacks.append("namespaces inside namespaces (a jail is built for each program that runs at once)")
        if system_call_filter(contained=jail.nested) is None:
            lacks.append("a system call filter (libseccomp.so.2 is not installed)")
        if not landlock_version():
            lacks.append("Landlock (the kernel has none)")
        return lacks

    def run(self, program: Program, limits: Limits | None = None) -> Execution:
        """Run a program to its end; raises SandboxError if the sandbox failed."""
        return self.start(program, limits).result()

    def start(self, program: Program, limits: Limits | None = None) -> Running:
        """Start a program and return it; the caller asks it for its result once."""
        limits = limits or Limits()
        files = _Files(program)
        try:
            while True:
                supervisor, fresh = self._supervisor(limits.disk_mb)
                try:
                    supervisor.hand_over(limits, files)
                    return Running(self, supervisor, files, limits)
                except OSError as error:
                    supervisor.close()
                    if fresh:
                        raise SandboxError(f"a program could not be handed over: {error}") from None
        except BaseException:
            files.close()
            raise
        finally:
            files.close_theirs()

    def close(self) -> None:
        """End the jail and every program that runs in it."""
        with self._lock:
            self._closed = True
            self._forget_idle()
            self._jail.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _supervisor(self, disk_mb: int) -> tuple[_Supervisor, bool]:
        """Return a supervisor and whether it is fresh, from a new jail if the old jail has ended."""
        with self._lock:
            if self._closed:
                raise SandboxError("it has been closed")
            if self._process != os.getpid():
                self._renew()
            for place, idle in reversed(list(enumerate(self._idle))):
                if idle.disk_mb == disk_mb:
                    return self._idle.pop(place), False
            if self.tier.strong and not self._jail.nested:
                return _Supervisor(_Jail(self.tier), disk_mb, owns_jail=True), True
            with contextlib.suppress(OSError):
                return _Supervisor(self._jail, disk_mb), True
            self._renew()
            return _Supervisor(self._jail, disk_mb), True

    def _renew(self) -> None:
        self._forget_idle()
        self._jail.close()
        self._jail = _Jail(self.tier)
        self._process = os.getpid()

    def _forget_idle(self) -> None:
        for supervisor in self._idle:
            supervisor.close()
        self._idle.clear()

    def _take_back(self, supervisor: _Supervisor) -> None:
        with self._lock:
            if not self._closed and self._process == os.getpid() and supervisor.serves(self._jail):
                self._idle.append(supervisor)
                return
        supervisor.close()


@functools.cache
def shared(*, allow_weak: bool = False) -> Sandbox:
    """Return this process's sandbox, which starts at the first call and ends with the process."""
    sandbox = Sandbox(allow_weak=allow_weak)
    atexit.register(sandbox.close)
    return sandbox


class Running:
    """A program that was started and whose result nobody has asked for yet."""

    def __init__(self, sandbox: Sandbox, supervisor: _Supervisor, files: _Files, limits: Limits):
        self._sandbox, self._files, self._limits = sandbox, files, limits
        self._supervisor: _Supervisor | None = supervisor

    def result(self) -> Execution:
        """Wait for the program's end; raises SandboxError if its supervisor failed or did not answer in time."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            raise SandboxError("a program's result is told only once")
        try:
            answer = supervisor.answer(self._limits.wall_seconds + GRACE_SECONDS)
            again = answer.pop("again", False)
            outputs = self._files.outputs(self._limits.output_kb * 1024)
        except BaseException:
            supervisor.close()
            raise
        finally:
            self._files.close()
        if again:
            self._sandbox._take_back(supervisor)
        else:
            supervisor.close()
        if "error" in answer:
            raise SandboxError(f"a program could not be started: {answer['error']}")
        return Execution(**answer, **outputs)

    def __del__(self) -> None:
        if self._supervisor is not None:  # nobody will ask for the result
            self._supervisor.close()
            self._files.close()


class _Files:
    """A program's nameless files in memory: inputs, for the supervisor alone, and outputs, which are read back."""

    def __init__(self, program: Program):
        contents = {name: content.hex() for name, content in program.files.items()}
        payload = json.dumps({**program.payload, "runner": program.runner, "files": contents}).encode()
        self._theirs = [_memory("payload", payload), _memory("stdin", program.stdin)]
        self._ours = {name: _memory(name) for name in ("stdout", "stderr", "report")}
        self._channel = [program.channel.fileno()] if program.channel else []

    def descriptors(self) -> list[int]:
        """Return the files' descriptors in the order in which a supervisor takes them."""
        return [*self._theirs, *self._ours.values(), *self._channel]

    def outputs(self, room: int) -> dict[str, Any]:
        return {name: os.pread(descriptor, room, 0) for name, descriptor in self._ours.items()}

    def close_theirs(self) -> None:
        while self._theirs:
            os.close(self._theirs.pop())

    def close(self) -> None:
        self.close_theirs()
        while self._ours:
            os.close(self._ours.popitem()[1])


class _Supervisor:
    """The process in a jail that runs programs, one at a time; raises OSError if the jail has ended."""

    def __init__(self, jail: _Jail, disk_mb: int, *, owns_jail: bool = False):
        self.disk_mb = disk_mb
        self._jail, self._owns_jail = jail, owns_jail
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                jail.hand_over(json.dumps({"disk_mb": disk_mb}).encode(), [theirs.fileno()])
            except OSError:
                self.close()
                raise

    def serves(self, jail: _Jail) -> bool:
        return self._owns_jail or self._jail is jail

    def hand_over(self, limits: Limits, files: _Files) -> None:
        socket.send_fds(self._socket, [json.dumps(asdict(limits)).encode()], files.descriptors())

    def answer(self, seconds: float) -> dict[str, Any]:
        waiting = select.poll()  # select() cannot wait for descriptors above 1023
        waiting.register(self._socket, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            raise SandboxError(f"a program's supervisor was silent for {seconds:g} seconds")
        with contextlib.suppress(OSError):
            if answer := self._socket.recv(ANSWER_BYTES):
                return json.loads(answer)
        raise SandboxError("a program's supervisor ended without saying how the program did")

    def close(self) -> None:
        self._socket.close()
        if self._owns_jail:
            self._jail.close()


class _Jail:
    """One running jail: its process and the socket that the warden listens on."""

    def __init__(self, tier: Tier):
        self._owner = os.getpid()
        self._folder = tempfile.mkdtemp(prefix="llmrl-sandbox-") if tier is PROCESS else ""
        if self._folder:
            os.chmod(self._folder, 0o711)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(START_SECONDS)
        with theirs, tempfile.TemporaryFile() as errors:
            try:
                started = launch(tier, theirs.fileno(), self._folder)
                self._process = subprocess.Popen(
                    started.argv,
                    env=started.environment,
                    cwd="/",
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError:
                self._socket.close()
                folders.remove(self._folder)
                raise
            theirs.close()
            features = self._ready()
            if features is None:
                self.close()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines()
                raise SandboxError(said[-1] if said else f"did not start in {START_SECONDS:g} seconds")
        self.nested: bool = features["nested"]
        self.view: str = features["view"]

    def _ready(self) -> dict[str, Any] | None:
        try:
            ready = self._socket.recv(ANSWER_BYTES)
        except OSError:
            return None
        return json.loads(ready) if ready else None

    @property
    def pid(self) -> int:
        return self._process.pid

    def hand_over(self, request: bytes, descriptors: list[int]) -> None:
        socket.send_fds(self._socket, [request], descriptors)

    def close(self) -> None:
        """End the jail, but only in the process that started it: a forked process must leave it alone."""
        self._socket.close()
        if self._owner != os.getpid():
            return
        try:
            self._process.wait(END_SECONDS)  # the warden exits when its socket is closed
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._folder:
            folders.remove(self._folder)


def _memory(name: str, content: bytes = b"") -> int:
    """Return the descriptor of a nameless file with this content, positioned at its beginning."""
    descriptor = os.memfd_create(name)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor

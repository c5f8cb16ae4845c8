"""Running programs that nobody trusts."""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import socket
import subprocess
import tempfile
import threading
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from llmrl.sandbox.limits import Execution, Limits, Program, SandboxError
from llmrl.sandbox.seccomp import system_call_filter
from llmrl.sandbox.tiers import Tier, landlock_version, launch, tiers

START_SECONDS = 20.0
GRACE_SECONDS = 20.0
"""How much longer than a program's wall limit its supervisor may take to say how it ended."""


class Sandbox:
    """A jail with a warm interpreter in it; any number of programs run in it at once, each in a jail of its own.

    tier: one to use; default: the strongest that works here. allow_weak: whether that may be one without namespaces.
    Safe to use from several threads. Raises SandboxError if no allowed tier can be had, with each one's reason.
    """

    def __init__(self, tier: Tier | None = None, *, allow_weak: bool = False):
        self._lock = threading.Lock()
        reasons = []
        for candidate in (tier,) if tier else tiers():
            if not candidate.strong and not (allow_weak or tier):
                reasons.append(f"{candidate.name}: not allowed (allow_weak)")
                continue
            try:
                self._jail = _Jail(candidate)
                self.tier = candidate
                break
            except (OSError, SandboxError) as error:
                reasons.append(f"{candidate.name}: {error}")
        else:
            raise SandboxError(f"no sandbox can be had here: {'; '.join(reasons)}")
        self._stronger = reasons

    @property
    def missing(self) -> list[str]:
        """What this sandbox lacks of a full one, and why."""
        lacks = list(self._stronger) if not self.tier.strong else []
        if not self.tier.strong:
            lacks += ["namespaces of its own", "a limit on all files together", "starting processes"]
        if system_call_filter(contained=self.tier.strong) is None:
            lacks.append("a system call filter (libseccomp.so.2 is not installed)")
        if not landlock_version():
            lacks.append("Landlock (the kernel has none)")
        if self.tier.strong and not self._jail.nested:
            lacks.append(
                "a warm interpreter (the kernel allows no nested namespaces: a jail is built for each program)"
            )
        if self._jail.nested and not self._jail.sees_all:
            lacks.append("limits on CPU and memory of all processes together (no new /proc can be mounted)")
        return lacks

    def run(self, program: Program, limits: Limits | None = None) -> Execution:
        """Run a program to its end; raises SandboxError if the sandbox failed."""
        return self.start(program, limits).result()

    def start(self, program: Program, limits: Limits | None = None) -> Running:
        """Start a program; its result is to be asked for, once."""
        limits = limits or Limits()
        if self.tier.strong and not self._jail.nested:
            jail = _Jail(self.tier)  # nothing but its end would end what a program leaves behind
            return Running(jail.request(program, limits), limits, owned=jail)
        with self._lock:
            for _ in range(2):
                try:
                    return Running(self._jail.request(program, limits), limits)
                except OSError:
                    self._jail.close()
                    self._jail = _Jail(self.tier)
        raise SandboxError("the jail ended twice while a program was handed to it")

    def close(self) -> None:
        """End the jail and everything that runs in it."""
        self._jail.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@functools.cache
def shared(*, allow_weak: bool = False) -> Sandbox:
    """This process's sandbox, started at the first call and ended with the process."""
    sandbox = Sandbox(allow_weak=allow_weak)
    atexit.register(sandbox.close)
    return sandbox


@dataclass(frozen=True)
class _Files:
    """Our ends of a program's files."""

    stdout: int
    stderr: int
    report: int
    status: int

    def close(self) -> None:
        for descriptor in vars(self).values():
            os.close(descriptor)


class Running:
    """A program that was started."""

    def __init__(self, files: _Files, limits: Limits, owned: _Jail | None = None):
        self._files, self._limits, self._owned = files, limits, owned

    def result(self) -> Execution:
        """Wait for its end; raises SandboxError if its supervisor failed or was silent past the wall limit."""
        try:
            status = self._status()
            room = self._limits.output_kb * 1024
            files = self._files
            stdout, stderr, report = (_content(one, room) for one in (files.stdout, files.stderr, files.report))
        finally:
            self._files.close()
            if self._owned:
                self._owned.close()
        if "error" in status:
            raise SandboxError(f"a program could not be started: {status['error']}")
        return Execution(**status, stdout=stdout, stderr=stderr, report=report)

    def _status(self) -> dict[str, Any]:
        deadline = self._limits.wall_seconds + GRACE_SECONDS
        if not select.select([self._files.status], [], [], deadline)[0]:
            raise SandboxError(f"a program's supervisor was silent for {deadline:g} seconds")
        status = os.read(self._files.status, 1 << 16)
        if not status:
            raise SandboxError("a program's supervisor ended without saying how the program did")
        return json.loads(status)


class _Jail:
    """One running jail: its process and the socket that the warden listens on."""

    def __init__(self, tier: Tier):
        self._folder = tempfile.TemporaryDirectory(prefix="llmrl-sandbox-")
        os.chmod(self._folder.name, 0o711)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(START_SECONDS)
        started = launch(tier, theirs.fileno(), self._folder.name)
        with theirs, tempfile.TemporaryFile() as errors:
            self._process = subprocess.Popen(
                started.argv,
                env=started.environment,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
            theirs.close()
            try:
                ready = self._socket.recv(4096)
            except TimeoutError:
                ready = b""
            if not ready:
                self.close()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().splitlines()
                raise SandboxError(said[-1] if said else f"did not start in {START_SECONDS:g} seconds")
        features = json.loads(ready)
        self.nested: bool = features["nested"]
        self.sees_all: bool = features["sees_all"]

    def request(self, program: Program, limits: Limits) -> _Files:
        """Hand a program over; raises OSError if the jail is gone."""
        contents = {name: content.hex() for name, content in program.files.items()}
        payload = json.dumps({**program.payload, "runner": program.runner, "files": contents}).encode()
        theirs = [_memory("payload", payload), _memory("stdin", program.stdin)]
        status, told = os.pipe()
        files = _Files(_memory("stdout"), _memory("stderr"), _memory("report"), status)
        channel = [program.channel.fileno()] if program.channel else []
        try:
            handed = [*theirs, files.stdout, files.stderr, files.report, told, *channel]
            socket.send_fds(self._socket, [json.dumps(asdict(limits)).encode()], handed)
        except OSError:
            files.close()
            raise
        finally:
            for descriptor in (*theirs, told):
                os.close(descriptor)
        return files

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def _memory(name: str, content: bytes = b"") -> int:
    """A file without a name, at its beginning."""
    descriptor = os.memfd_create(name)
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _content(descriptor: int, room: int) -> bytes:
    return os.pread(descriptor, room, 0)

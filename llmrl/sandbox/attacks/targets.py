"""The targets of attacks: files, processes and sockets, each of which shows whether an attack reached it."""

from __future__ import annotations

import contextlib
import os
import resource
import secrets
import select
import shutil
import site
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from llmrl.sandbox.tiers import JAILED, visible

MARK = "SECRET-"
VICTIM = "import sys, time; kept = sys.argv[1:]; print(flush=True); time.sleep(1e6)"
EFFECT_SECONDS = 0.02
"""A signal may take so long to end a process."""
_ENVIRONMENT = "LLMRL_ATTACK_TARGET"


class Targets:
    """A folder, a process and sockets that any process of this user can reach, unless a sandbox stops it.

    token: a secret that stands in a file of the folder, in this process's environment, and in the environment, the
    arguments and the memory of the process, which is called the victim.
    """

    def __init__(self) -> None:
        self.token = MARK + secrets.token_hex(16)
        self._folder = Path(tempfile.mkdtemp(prefix="llmrl-targets-"))
        self._folder.chmod(0o777)
        self._secret = self._folder / "secret"
        self._secret.write_text(self.token)
        self._canary = self._folder / "canary"
        self._leak = os.open(self._secret, os.O_RDONLY)
        os.set_inheritable(self._leak, True)
        os.environ[f"{_ENVIRONMENT}_{id(self)}"] = self.token
        self._victim = self._new_victim()
        self._listeners = _Listeners(self._folder, self.token)
        self._place_canary()

    def description(self) -> dict[str, Any]:
        """Return the paths, numbers and names of all targets, without the secret itself."""
        return {
            "mark": MARK,
            "trainer": os.getpid(),
            "victim": self._victim.pid,
            "folder": str(self._folder),
            "secret": str(self._secret),
            "canary": str(self._canary),
            "working_directory": os.getcwd(),
            "home": str(Path.home()),
            "runners": str(JAILED),
            "packages": site.getsitepackages(),
            "visible": visible(),
            **self._listeners.names,
        }

    def disturbed(self) -> list[str]:
        """Return the changes to the targets since the last call, and replace the targets that were damaged."""
        found = self._listeners.heard()
        if self._canary_state() != self._canary_before or sorted(os.listdir(self._folder)) != self._listing:
            found.append("the trainer's files were changed")
            self._place_canary()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._victim.wait(EFFECT_SECONDS)
            found.append(f"a process of the user's was ended: {self._victim.returncode}")
            self._victim = self._new_victim()
        if (state := self._victim_state()) != self._victim_before:
            found.append(f"a process of the user's was changed: {state}")
            self._end_victim()
            self._victim = self._new_victim()
        return found

    def close(self) -> None:
        """Remove all targets."""
        self._listeners.close()
        self._end_victim()
        os.close(self._leak)
        del os.environ[f"{_ENVIRONMENT}_{id(self)}"]
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Targets:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _place_canary(self) -> None:
        for path in set(self._folder.iterdir()) - {self._secret, *self._listeners.files}:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        self._canary.write_text("unharmed")
        self._canary.chmod(0o666)
        self._canary_before = self._canary_state()
        self._listing = sorted(os.listdir(self._folder))

    def _canary_state(self) -> tuple:
        try:
            status = self._canary.stat()
            return self._canary.read_text(), status.st_mode, status.st_mtime_ns
        except OSError:
            return ()

    def _new_victim(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, _ENVIRONMENT: self.token}
        argv = [sys.executable, "-S", "-c", VICTIM, self.token]
        victim = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE)
        assert victim.stdout is not None
        with victim.stdout as ready:
            ready.readline()
        self._victim = victim
        self._victim_before = self._victim_state()
        return victim

    def _end_victim(self) -> None:
        self._victim.kill()
        self._victim.wait()

    def _victim_state(self) -> tuple:
        """Return the victim's properties that another process could change, among them whether it is stopped."""
        pid = self._victim.pid
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        stopped = state in ("T", "t")
        limits = [resource.prlimit(pid, kind) for kind in range(16)]
        return stopped, limits, os.sched_getaffinity(pid), os.getpriority(os.PRIO_PROCESS, pid)


class _Listeners:
    """Servers of every kind of socket, which record that an attack reached them."""

    def __init__(self, folder: Path, token: str):
        unix, datagrams = folder / "stream", folder / "datagrams"
        abstract = f"llmrl-{token[-16:]}"
        self.files = {unix, datagrams}
        self._sockets = [
            self._listening(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            self._listening(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            self._listening(socket.AF_UNIX, socket.SOCK_STREAM, str(unix)),
            self._listening(socket.AF_UNIX, socket.SOCK_DGRAM, str(datagrams)),
            self._listening(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{abstract}"),
            self._listening(socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{abstract}-datagrams"),
        ]
        for path in self.files:
            path.chmod(0o777)
        self.names = {
            "tcp": self._sockets[0].getsockname()[1],
            "udp": self._sockets[1].getsockname()[1],
            "unix": str(unix),
            "unix_datagrams": str(datagrams),
            "abstract": abstract,
            "abstract_datagrams": f"{abstract}-datagrams",
        }

    @staticmethod
    def _listening(family: int, kind: int, address: Any) -> socket.socket:
        one = socket.socket(family, kind)
        one.bind(address)
        one.setblocking(False)
        if kind == socket.SOCK_STREAM:
            one.listen()
        return one

    def heard(self) -> list[str]:
        """Return the servers that were reached since the last call."""
        found = []
        for one in self._sockets:
            while select.select([one], [], [], 0)[0]:
                with contextlib.suppress(OSError):
                    if one.type == socket.SOCK_STREAM:
                        one.accept()[0].close()
                    else:
                        one.recv(1 << 16)
                found.append(f"a socket of the trainer's was reached: {one.getsockname()!r}")
        return found

    def close(self) -> None:
        for one in self._sockets:
            one.close()


def descendants(pid: int) -> set[int]:
    """Return the living processes that descend from process `pid`, as far as /proc shows them."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                stat = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                if stat[0] != "Z":
                    children.setdefault(int(stat[1]), []).append(int(name))
    found, pending = set(), [pid]
    while pending:
        new = children.get(pending.pop(), [])
        found |= set(new)
        pending += new
    return found


def trainer_state() -> dict[str, Any]:
    """Return the properties of this process and its machine that an attack could have changed."""
    shared = Path("/proc/sysvipc/shm")
    places = [Path(tempfile.gettempdir()), JAILED, *map(Path, site.getsitepackages())]
    own = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in JAILED.glob("*.py")}
    return {
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "open files": sorted(_open_files()),
        "children": sorted(descendants(os.getpid())),
        "threads": threading.active_count(),
        "limits": [resource.getrlimit(kind) for kind in range(16)],
        "processors": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "memory killer's mark": Path("/proc/self/oom_score_adj").read_text(),
        "host name": os.uname().nodename,
        "mounts": Path("/proc/self/mounts").read_text(),
        "core pattern": Path("/proc/sys/kernel/core_pattern").read_text(),
        "shared segments": shared.read_text().count("\n") if shared.exists() else 0,
        "the sandbox's own code": own,
        "files left": [path for place in places for path in place.glob("llmrl[-_]attack*")],
    }


def _open_files() -> list[tuple[int, str]]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor that lists the folder is closed by now
            found.append((int(name), os.readlink(f"/proc/self/fd/{name}")))
    return found

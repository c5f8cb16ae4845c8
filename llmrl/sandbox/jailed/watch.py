"""Watching a program: holds all of its processes to the limits, and kills those that it leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import folders

OWN, OUTER, ONE = VIEWS = ("own", "outer", "one")
"""The views of processes: OWN: their namespace's /proc; OUTER: descendants in an outer /proc; ONE: the first alone."""

TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
LOOK_SECONDS = 0.01
KILLED_SECONDS = 5.0
"""Killed processes may take so long to end."""
BARE_PROCESSES = 2  # the supervisor and the program's first process


def best_view(proc: int) -> str:
    """Return, in fresh namespaces, the best view of processes started here. proc: an open /proc from outside."""
    if os.path.exists("/proc/1"):
        return OWN
    try:
        found = _descendants(proc)
    except OSError:
        return ONE
    return OUTER if found == [] else ONE


class Watch:
    """A watch that waits for the end of process `program` and holds all of its processes to the limits."""

    def __init__(self, program: int, limits: dict, home: str, proc: int, view: str, contained: bool):
        self.program, self.limits, self.contained = program, limits, contained
        self._home, self._proc, self._view = home, proc, view
        self._started = time.monotonic()
        self._cause = ""
        self._status: int | None = None
        self._reaped = self._cpu = self._peak = self._young = 0.0
        self._own: dict[str, float] = {}

    def until_end(self) -> dict:
        """Wait for the program's end and return how it ended; `alone`: whether all of its processes have ended too."""
        look = self._started + LOOK_SECONDS
        while self._status is None:
            signal.sigtimedwait({signal.SIGCHLD}, max(0.0, look - time.monotonic()))
            self._reap()
            if self._status is None and time.monotonic() >= look:
                self._cause = self._cause or self._excess()
                if self._cause:
                    self._kill()
                look = time.monotonic() + LOOK_SECONDS
        return {**self._result(self._status, time.monotonic() - self._started), "alone": self._end_all()}

    def _reap(self) -> bool:
        """Record every process that has ended; returns whether no process is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            self._reaped += usage.ru_utime + usage.ru_stime
            if pid == self.program:
                self._status = status
                self._peak = max(self._peak, usage.ru_maxrss / 1024)

    def _kill(self) -> None:
        if self.contained:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # this kills every process of the namespace except its process 1
        elif self._status is None:
            os.kill(self.program, signal.SIGKILL)

    def _end_all(self) -> bool:
        """Kill the processes that the program left behind; returns whether they have ended."""
        self._kill()
        deadline = time.monotonic() + KILLED_SECONDS
        while not self._reap():
            if time.monotonic() > deadline:
                return False
            signal.sigtimedwait({signal.SIGCHLD}, LOOK_SECONDS)
        return True

    def _excess(self) -> str:
        """Return the limit that the program has passed, "" if it has passed none."""
        tasks, cpu, resident = self._usage()
        self._cpu, self._peak = max(self._cpu, cpu), max(self._peak, resident)
        if cpu > self.limits["cpu_seconds"]:
            return "cpu_time"
        if resident > self.limits["memory_mb"]:
            return "memory"
        if tasks > self.limits["processes"] + BARE_PROCESSES:
            return "processes"
        if not self.contained and folders.size_mb(self._home) > self.limits["disk_mb"]:
            return "output"
        return "wall_time" if time.monotonic() - self._started > self.limits["wall_seconds"] else ""

    def _usage(self) -> tuple[int, float, float]:
        """Return threads, CPU seconds (ended processes included) and resident MB of all processes but the supervisor.

        The kernel charges an ended process to nobody if its parent did not wait for it. Such a process counts with the
        CPU time last seen; one that had used none yet counts as having run since the last look.
        """
        tasks = pages = 0
        cpu = self._reaped
        for pid in self._pids():
            try:
                descriptor = os.open(f"{pid}/stat", os.O_RDONLY, dir_fd=self._proc)
                fields = os.read(descriptor, 4096).rpartition(b")")[2].split()
                os.close(descriptor)
            except OSError:  # the process has ended, or there is no /proc
                continue
            user, system, childrens_user, childrens_system = map(int, fields[11:15])
            cpu += (user + system + childrens_user + childrens_system) * TICK
            if user + system == 0 and fields[0] == b"R" and pid not in self._own:
                self._young += LOOK_SECONDS
            self._own[pid] = (user + system) * TICK
            tasks += int(fields[17])
            pages += int(fields[21])
        return tasks, max(cpu, sum(self._own.values()) + self._young), pages * PAGE_MB

    def _pids(self) -> list[str]:
        if self._view == OWN:
            return [name for name in os.listdir(self._proc) if name.isdigit() and name != "1"]
        if self._view == OUTER:
            return _descendants(self._proc)
        return [str(self.program)]

    def _result(self, status: int, wall: float) -> dict:
        cpu = max(self._cpu, self._reaped)
        killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        cause = self._cause
        if not cause and killed_by in (signal.SIGKILL, signal.SIGXCPU) and cpu >= self.limits["cpu_seconds"]:
            cause = "cpu_time"  # the kernel killed it before the next look at its time
        if not cause and killed_by == signal.SIGXFSZ:
            cause = "output"
        return {
            "ended": cause or ("killed" if killed_by else "exited"),
            "exit_code": None if killed_by else os.WEXITSTATUS(status),
            "signal": killed_by,
            "cpu_seconds": cpu,
            "wall_seconds": wall,
            "peak_memory_mb": self._peak,
        }


def _descendants(proc: int) -> list[str]:
    """Return the process numbers, in an outer /proc, of this process's descendants."""
    found: list[str] = []
    pending = [os.readlink("self", dir_fd=proc)]
    while pending:
        pid = pending.pop()
        try:
            tasks = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=proc)
        except FileNotFoundError:
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the process may have ended meanwhile
            for task in os.listdir(tasks):
                children = os.open(f"{task}/children", os.O_RDONLY, dir_fd=tasks)
                pending += os.read(children, 1 << 16).decode().split()
                os.close(children)
        os.close(tasks)
        found.append(pid)
    return found[1:]

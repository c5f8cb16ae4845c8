"""One program: a supervisor, which is process 1 of the program's namespaces, and the program, confined.

The supervisor starts the program, watches time, memory and processes of everything that descends from it, writes how it
ended to the status file, and ends: with it, the kernel ends whatever the program left behind.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback

import kernel
import warden

NOBODY = 65534
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
POLL_SECONDS = 0.01
BARE_PROCESSES = 2  # the supervisor's own and the program's first


def main(limits: dict, files: dict, config: dict, proc: int, nested: bool) -> None:
    """Never returns."""
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # process 1 gets no signal from inside that it has no handler for
        if nested:
            home = config["home"]
            own_namespaces(proc, home, limits["disk_mb"])
        else:
            home = tempfile.mkdtemp(dir=config["home"])
        os.close(proc)
        kernel.set_dumpable(False)
        os.chdir(home)
        ready, told = os.pipe()
        program = os.fork()
        if program == 0:
            os.close(ready)
            _become_program(limits, files, config, home, nested, told)
        os.close(told)
        for name in ("payload", "stdin", "stdout", "stderr", "report", "channel"):
            if name in files:
                os.close(files[name])
        fault = os.read(ready, 1 << 16)  # nothing, and the end, once the program is confined
        ended = {"error": fault.decode()} if fault else _Watch(program, limits, nested).until_end()
        if not nested:
            shutil.rmtree(home, ignore_errors=True)
        os.write(files["status"], json.dumps(ended).encode())
        code = 0
    except BaseException:
        os.write(files["status"], json.dumps({"error": traceback.format_exc(limit=-3)}).encode())
    finally:
        os._exit(code)


def own_namespaces(proc: int, home: str, disk_mb: int) -> None:
    """In a fresh process of new namespaces: take its user, an empty folder for files, and a /proc of its own."""
    kernel.set_dumpable(True)  # the entries of a process that is not dumpable belong to root
    warden.write_maps("self", NOBODY, NOBODY, NOBODY, proc)
    options = f"mode=700,size={disk_mb}m,nr_inodes={disk_mb * 64}"
    kernel.mount("tmpfs", home, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    try:
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    except OSError:  # not allowed where parts of the outer one are hidden; that one would show other programs
        kernel.mount("tmpfs", "/proc", "tmpfs", options="mode=555,size=4k")


class _Watch:
    """Waits for the program while holding all of its processes to the limits."""

    def __init__(self, program: int, limits: dict, nested: bool):
        self.program, self.limits, self.nested = program, limits, nested
        self.sees_all = nested and os.path.exists("/proc/1")
        self.started = time.monotonic()
        self.cpu = self.peak = 0.0
        self.cause = ""

    def until_end(self) -> dict:
        pause = POLL_SECONDS / 4
        while True:
            signal.sigtimedwait({signal.SIGCHLD}, pause)
            status = self._reap()
            if status is not None:
                return self._result(status)
            self.cause = self.cause or self._excess()
            if self.cause:
                self._kill()
            pause = min(pause * 2, POLL_SECONDS)

    def _reap(self) -> int | None:
        """The program's wait status, once it has ended; orphans are reaped on the way."""
        found = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == self.program:
                found = status

    def _kill(self) -> None:
        os.kill(self.program, signal.SIGKILL)
        if self.nested:
            os.kill(-1, signal.SIGKILL)  # everything in this namespace but its process 1

    def _excess(self) -> str:
        """The limit that has been passed, if one has."""
        processes, cpu, resident = self._usage()
        self.cpu, self.peak = max(self.cpu, cpu), max(self.peak, resident)
        if cpu > self.limits["cpu_seconds"]:
            return "cpu_time"
        if resident > self.limits["memory_mb"]:
            return "memory"
        if processes > self.limits["processes"] + BARE_PROCESSES:
            return "processes"
        return "wall_time" if time.monotonic() - self.started > self.limits["wall_seconds"] else ""

    def _usage(self) -> tuple[int, float, float]:
        """Processes, CPU seconds (those of ended processes too), and resident MB, of all but the supervisor."""
        if self.sees_all:
            pids = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
        else:
            pids = [str(self.program)]
        ticks = pages = 0
        for pid in pids:
            try:
                with open(f"/proc/{pid}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:  # it has ended, or there is no /proc
                continue
            ticks += sum(map(int, fields[11:15]))
            pages += int(fields[21])
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)  # orphans that the supervisor has reaped
        return len(pids), ticks / TICKS + ended.ru_utime + ended.ru_stime, pages * PAGE / 2**20

    def _result(self, status: int) -> dict:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = max(self.cpu, usage.ru_utime + usage.ru_stime)
        killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        cause = self.cause
        if not cause and killed_by == signal.SIGXCPU:
            cause = "cpu_time"
        if not cause and killed_by == signal.SIGXFSZ:
            cause = "output"
        return {
            "ended": cause or ("killed" if killed_by else "exited"),
            "exit_code": None if killed_by else os.WEXITSTATUS(status),
            "signal": killed_by,
            "cpu_seconds": cpu,
            "wall_seconds": time.monotonic() - self.started,
            "peak_memory_mb": max(self.peak, usage.ru_maxrss / 1024),
        }


def _become_program(limits: dict, files: dict, config: dict, home: str, nested: bool, told: int) -> None:
    """Confine this process, then run what the payload says; what goes wrong before is told. Never returns."""
    code = 1
    try:
        with open(files["payload"], "rb") as file:
            payload = json.loads(file.read())
        _place(payload.pop("files"), home)
        runner = importlib.import_module(payload.pop("runner"))
        report, channel, told = _arrange(files, told)
        os.environ.clear()
        os.environ.update(config["environment"], HOME=home, TMPDIR=home)
        _confine(limits, config, home, nested)
    except BaseException:
        os.write(told, traceback.format_exc().encode())
        os._exit(1)
    os.close(told)
    try:
        runner.main(payload, report, channel)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else _complain(error.code)
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code & 0xFF)


def _place(files: dict, home: str) -> None:
    for name, content in files.items():
        path = os.path.join(home, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(bytes.fromhex(content))


def _complain(message: object) -> int:
    print(message, file=sys.stderr)
    return 1


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _arrange(files: dict, told: int) -> tuple[int, int, int]:
    """Standard streams at 0 to 2, then the report, the pipe to the supervisor and the channel; nothing else is open."""
    wanted = [*(files[name] for name in ("stdin", "stdout", "stderr", "report")), told]
    wanted += [files["channel"]] if "channel" in files else []
    high = [os.dup2(descriptor, 100 + place, inheritable=False) for place, descriptor in enumerate(wanted)]
    for place, descriptor in enumerate(high):
        os.dup2(descriptor, place, inheritable=place < 3)
    os.closerange(len(wanted), 1 << 16)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False, errors="backslashreplace", buffering=1)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    return 3, 5 if len(wanted) > 5 else -1, 4


def _confine(limits: dict, config: dict, home: str, nested: bool) -> None:
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    for number in (signal.SIGXFSZ, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)  # Python ignores the first two
    size = limits["output_kb"] * 1024
    bounds = {
        resource.RLIMIT_AS: limits["memory_mb"] * 2**20,
        resource.RLIMIT_CPU: int(limits["cpu_seconds"]) + 2,
        resource.RLIMIT_FSIZE: size,
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 256,
    }
    if nested:  # elsewhere it would count the user's other processes too
        bounds[resource.RLIMIT_NPROC] = limits["processes"] + BARE_PROCESSES
    for kind, bound in bounds.items():
        hard = resource.getrlimit(kind)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, bound))
    kernel.set_dumpable(True)
    if config["become_nobody"]:
        os.chown(home, NOBODY, NOBODY)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    kernel.drop_privileges()
    if config["landlock"]:
        kernel.restrict_paths(config["readable"], [home, "/dev/null"])
    if config["filter"]:
        kernel.filter_system_calls(bytes.fromhex(config["filter"]))

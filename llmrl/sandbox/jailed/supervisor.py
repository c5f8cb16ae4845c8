"""A supervisor: process 1 of its own namespaces, in which it runs one confined program at a time.

The supervisor starts the program, watches the time, memory and number of all its processes, kills every process that
the program leaves behind, and then reports how the program ended. It runs another program only if the last one left no
trace; otherwise it exits, and the kernel removes its namespaces.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import tempfile
import traceback
from dataclasses import dataclass

import confined
import folders
import kernel
import watch

NOBODY = 65534
REQUEST_BYTES = 4096
FAULT_CHARACTERS = 4000
FILES = ("payload", "stdin", "stdout", "stderr", "report", "channel")  # the order of a request's descriptors
RUNS = 200  # a supervisor exits after so many programs


@dataclass(frozen=True)
class Setting:
    """The setting that all supervisors of a jail share.

    proc: an open /proc that shows the supervisors. view: one of watch.VIEWS. nested: whether each supervisor has its
    own namespaces. own_modules: names of this folder's modules, which are hidden from programs.
    """

    config: dict
    proc: int
    view: str
    nested: bool
    own_modules: list[str]


def main(control: int, request: dict, setting: Setting) -> None:
    """Serve requests, each a program's limits and files, until a program leaves a trace; never returns."""
    home = ""
    requests = socket.socket(fileno=control)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # without handlers, process 1 gets no signal from its namespace
        home = _own_home(request, setting)
        confined.standard_streams()
        proc = _enter(home, setting)
        gc.freeze()
        untouched = _state(home, setting.nested)
        for left in reversed(range(RUNS)):
            message, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES, len(FILES))
            if not message:
                break
            files = dict(zip(FILES, descriptors, strict=False))
            ended = _run(json.loads(message), files, home, proc, setting)
            again = ended.pop("alone") and left > 0 and _state(home, setting.nested) == untouched
            requests.send(json.dumps({**ended, "again": again}).encode())
            if not again:
                break
    except BaseException:
        with contextlib.suppress(OSError):
            requests.send(json.dumps({"error": traceback.format_exc(limit=-3)[-FAULT_CHARACTERS:]}).encode())
    finally:
        if home and not setting.nested:
            folders.remove(home)
        os._exit(0)


def own_namespaces(proc: int, home: str, disk_mb: int) -> None:
    """Set up new namespaces from their first process: map its user, mount an empty folder for files and a /proc."""
    kernel.set_dumpable(True)  # root owns the /proc entries of a process that is not dumpable
    write_maps("self", NOBODY, NOBODY, NOBODY, proc)
    options = f"mode=700,size={disk_mb}m,nr_inodes={disk_mb * 64}"
    kernel.mount("tmpfs", home, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOATIME, options)
    flags = kernel.MS_READ_ONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    for options in ("subset=pid", None):  # the first shows processes alone, but older kernels refuse it
        with contextlib.suppress(OSError):
            return kernel.mount("proc", "/proc", "proc", flags, options)
    # the kernel allows no new /proc where parts of the outer one are hidden; the outer one would show other programs
    kernel.mount("tmpfs", "/proc", "tmpfs", kernel.MS_READ_ONLY, "mode=555,size=4k")


def write_maps(process: str, name: int, uid: int, gid: int, proc: int | None = None) -> None:
    """Map one user and one group, both under the number `name`, into a process's user namespace."""
    for file, content in (("setgroups", "deny"), ("uid_map", f"{name} {uid} 1"), ("gid_map", f"{name} {gid} 1")):
        descriptor = os.open(f"{process}/{file}", os.O_WRONLY, dir_fd=proc)
        os.write(descriptor, content.encode())
        os.close(descriptor)


def _own_home(request: dict, setting: Setting) -> str:
    if setting.nested:
        own_namespaces(setting.proc, setting.config["home"], request["disk_mb"])
        return setting.config["home"]
    kernel.die_with_parent()
    home = tempfile.mkdtemp(dir=setting.config["home"])
    if setting.config["become_nobody"]:
        os.chown(home, NOBODY, NOBODY)
    return home


def _enter(home: str, setting: Setting) -> int:
    """Give up, for good, the rights that programs must not have; returns the /proc that shows the programs.

    With its own namespaces, the supervisor is confined like its programs and out of their reach. Without, it keeps its
    rights, and each program gives them up for itself.
    """
    proc = setting.proc
    if setting.view == watch.OWN:
        os.close(proc)
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    kernel.set_dumpable(False)
    os.chdir(home)
    os.environ.clear()
    os.environ.update(setting.config["environment"], HOME=home, TMPDIR=home)
    if setting.nested:
        confined.give_up(setting.config, home, setting.config["filters"]["contained"], ["/", proc])
    return proc


def _state(home: str, nested: bool) -> tuple:
    """Return the state of the folder, which changes if a program leaves or has had any file in the folder."""
    place, room = os.stat(home), os.statvfs(home)
    free = (room.f_bfree, room.f_ffree) if nested else ()
    return place.st_mode, place.st_mtime_ns, place.st_ctime_ns, free, os.listdir(home)


def _run(limits: dict, files: dict, home: str, proc: int, setting: Setting) -> dict:
    """Run a program to its end; returns how it ended, and whether the supervisor is then `alone`."""
    ready, told = os.pipe()
    program = os.fork()
    if program == 0:
        os.close(ready)
        confined.become_program(limits, files, home, told, setting)
    for descriptor in (told, *files.values()):
        os.close(descriptor)
    fault = os.read(ready, FAULT_CHARACTERS)  # empty if the program could be confined
    os.close(ready)
    watched = watch.Watch(program, limits, home, proc, setting.view, setting.nested)
    ended = watched.until_end()
    return {"error": fault.decode(errors="replace"), "alone": False} if fault else ended

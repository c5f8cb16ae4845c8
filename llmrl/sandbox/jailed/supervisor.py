"""A supervisor: process 1 of namespaces of its own, which runs one program at a time in them, confined.

It starts the program, watches time, memory and processes of everything that descends from it, ends whatever the program
left behind, and then says how it went. It runs another program only if the last one left no trace; else it ends, and
with it the kernel ends its namespaces.
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
FILES = ("payload", "stdin", "stdout", "stderr", "report", "channel")  # what a request's descriptors are
RUNS = 200  # of one supervisor


@dataclass(frozen=True)
class Setting:
    """What all supervisors of a jail have in common.

    proc: an open /proc that shows them. view: see watch.VIEWS. nested: whether each has namespaces of its own.
    own_modules: names of the modules of this folder, which programs are not to see.
    """

    config: dict
    proc: int
    view: str
    nested: bool
    own_modules: list[str]


def main(control: int, request: dict, setting: Setting) -> None:
    """Serve requests, each the limits of a program and its files, until one leaves a trace. Never returns."""
    home = ""
    requests = socket.socket(fileno=control)
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)  # process 1 gets no signal from inside that it has no handler for
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
            outcome = _run(json.loads(message), files, home, proc, setting)
            again = outcome.pop("alone") and left > 0 and _state(home, setting.nested) == untouched
            requests.send(json.dumps({**outcome, "again": again}).encode())
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
    """In a fresh process of new namespaces: take its user, an empty folder for files, and a /proc of its own."""
    kernel.set_dumpable(True)  # the entries of a process that is not dumpable belong to root
    write_maps("self", NOBODY, NOBODY, NOBODY, proc)
    options = f"mode=700,size={disk_mb}m,nr_inodes={disk_mb * 64}"
    kernel.mount("tmpfs", home, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOATIME, options)
    flags = kernel.MS_READ_ONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    for options in ("subset=pid", None):  # processes alone, if the kernel knows how to
        with contextlib.suppress(OSError):
            return kernel.mount("proc", "/proc", "proc", flags, options)
    # not allowed where parts of the outer one are hidden; that one would show other programs
    kernel.mount("tmpfs", "/proc", "tmpfs", kernel.MS_READ_ONLY, "mode=555,size=4k")


def write_maps(process: str, name: int, uid: int, gid: int, proc: int | None = None) -> None:
    """Map one user and one group, under the number `name`, into the user namespace of a process."""
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
    """Give up, for good, whatever programs are not to have either; returns the /proc that shows them.

    In namespaces of its own the supervisor is out of reach, though confined as they are; elsewhere it keeps its rights
    and each program gives them up for itself.
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
    """What a program would change by leaving something behind in its folder, or by having had something there."""
    place, room = os.stat(home), os.statvfs(home)
    free = (room.f_bfree, room.f_ffree) if nested else ()
    return place.st_mode, place.st_mtime_ns, place.st_ctime_ns, free, os.listdir(home)


def _run(limits: dict, files: dict, home: str, proc: int, setting: Setting) -> dict:
    """How a program went, and whether it and all that it started is `alone` no more: has ended."""
    ready, told = os.pipe()
    program = os.fork()
    if program == 0:
        os.close(ready)
        confined.become_program(limits, files, home, told, setting)
    for descriptor in (told, *files.values()):
        os.close(descriptor)
    fault = os.read(ready, FAULT_CHARACTERS)  # nothing, and the end, once the program is confined
    os.close(ready)
    watched = watch.Watch(program, limits, home, proc, setting.view, setting.nested)
    ended = watched.until_end()
    return {"error": fault.decode(errors="replace"), "alone": False} if fault else ended

"""The jail's first program: keeps a warm interpreter and makes a confined copy of it for each program to run.

Started as `python -I -S warden.py FD CONFIG` inside a jail, or called by enter.py. It reads requests from the control
socket, each a JSON object with file descriptors, and ends when the socket's other end is closed. It never sees a
program: what to run is in a file that only the new process reads.
"""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import signal
import site
import socket
import sys

import confined
import kernel

REQUEST_BYTES = 65536
FILES = ("payload", "stdin", "stdout", "stderr", "report", "status", "channel")  # what a request's descriptors are
NESTED = kernel.NEW_USERS | kernel.NEW_MOUNTS | kernel.NEW_PIDS | kernel.NEW_IPC


def main(control: int, config: dict) -> None:
    kernel.set_dumpable(False)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the copies' ends are told by their status files
    sys.path += config["path"]
    for name in config["warm"]:
        importlib.import_module(name)
    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))  # its modules are loaded; a program has its own
    site.setquit()
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    nested, sees_all = _try_nesting(proc, config["home"]) if config["nested"] else (False, False)
    flags = NESTED if nested else 0
    gc.freeze()  # or every copy's first collection would copy all of this interpreter's memory
    with socket.socket(fileno=control) as requests:
        requests.send(json.dumps({"nested": nested, "sees_all": sees_all}).encode())
        while True:
            request, descriptors = _receive(requests)
            if not request:
                os._exit(0)
            if kernel.fork_into(flags) == 0:
                requests.close()
                confined.main(json.loads(request), dict(zip(FILES, descriptors, strict=False)), config, proc, nested)
            for descriptor in descriptors:
                os.close(descriptor)


def write_maps(process: str, name: int, uid: int, gid: int, proc: int | None = None) -> None:
    """Map one user and one group, under the number `name`, into the user namespace of a process."""
    for file, content in (("setgroups", "deny"), ("uid_map", f"{name} {uid} 1"), ("gid_map", f"{name} {gid} 1")):
        descriptor = os.open(f"{process}/{file}", os.O_WRONLY, dir_fd=proc)
        os.write(descriptor, content.encode())
        os.close(descriptor)


def _receive(requests: socket.socket) -> tuple[bytes, list[int]]:
    room = socket.CMSG_SPACE(len(FILES) * array.array("i").itemsize)
    request, ancillary, _, _ = requests.recvmsg(REQUEST_BYTES, room)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return request, list(descriptors)


def _try_nesting(proc: int, home: str) -> tuple[bool, bool]:
    """Whether each program can have namespaces of its own inside the jail's, and a /proc that shows all of them."""
    try:
        child = kernel.fork_into(NESTED)
    except OSError:
        return False, False
    if child == 0:
        try:
            confined.own_namespaces(proc, home, disk_mb=1)
            os._exit(0 if os.path.exists("/proc/1") else 1)
        except OSError:
            os._exit(2)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return code in (0, 1), code == 0


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))

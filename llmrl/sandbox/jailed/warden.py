"""The warden, the jail's first process: keeps a warm interpreter and forks supervisors, which run the programs.

The warden is started inside a jail as `python -s -S -B warden.py FD CONFIG`, or called by enter.py. It reads requests
from the control socket, each a JSON object with a socket for a new supervisor, and exits when the other end of the
control socket is closed. The warden never sees a program: the trainer sends programs to the supervisors directly.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import site
import socket
import sys

import folders
import kernel
import supervisor
import watch

NESTED = kernel.NEW_USERS | kernel.NEW_MOUNTS | kernel.NEW_PIDS | kernel.NEW_IPC


def main(control: int, config: dict, proc: int | None = None) -> None:
    """Serve requests for supervisors; never returns. proc: an open /proc that shows this process, else the jail's."""
    if config["nested"]:  # the parent built the jail, and the jail must end with its builder
        kernel.die_with_parent()
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if proc is None else proc
    _offer_to_the_memory_killer(proc)
    kernel.set_dumpable(False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.path += config["path"]
    for name in config["warm"]:
        importlib.import_module(name)
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.remove(here)  # this folder's modules are loaded already, and programs must not import them
    own = [name for name, module in sys.modules.items() if (getattr(module, "__file__", "") or "").startswith(here)]
    site.setquit()
    view = _try_nesting(proc, config) if config["nested"] else ""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps ended supervisors
    gc.freeze()  # without this, each supervisor's first garbage collection would copy all of this process's memory
    setting = supervisor.Setting(config, proc, view or watch.ONE, nested=bool(view), own_modules=own)
    with socket.socket(fileno=control) as requests:
        requests.send(json.dumps({"nested": bool(view), "view": setting.view}).encode())
        while True:
            request, descriptors, _, _ = socket.recv_fds(requests, supervisor.REQUEST_BYTES, 1)
            if not request:
                if not config["nested"]:  # with namespaces, the kernel removes the files
                    folders.remove(config["home"])
                os._exit(0)
            with contextlib.suppress(OSError):  # if fork fails, the trainer sees the supervisor's socket close
                if kernel.fork_into(NESTED if view else 0) == 0:
                    requests.close()
                    supervisor.main(descriptors[0], json.loads(request), setting)
            for descriptor in descriptors:
                os.close(descriptor)


def _offer_to_the_memory_killer(proc: int) -> None:
    """Ask the kernel to kill programs before the user's other processes when memory runs out."""
    kernel.set_dumpable(True)  # root owns the /proc entries of a process that is not dumpable
    with contextlib.suppress(OSError):
        descriptor = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=proc)
        os.write(descriptor, b"1000")
        os.close(descriptor)


def _try_nesting(proc: int, config: dict) -> str:
    """Return how supervisors with their own namespaces see processes; "" if the kernel allows no such namespaces."""
    try:
        child = kernel.fork_into(NESTED)
    except OSError:
        return ""
    if child == 0:
        code = len(watch.VIEWS)
        with contextlib.suppress(BaseException):
            supervisor.own_namespaces(proc, config["home"], disk_mb=1)
            code = watch.VIEWS.index(watch.best_view(proc))
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return watch.VIEWS[code] if 0 <= code < len(watch.VIEWS) else ""


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))

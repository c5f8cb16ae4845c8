"""The jail's first program: keeps a warm interpreter, and makes copies of it that each run one program at a time.

Started as `python -s -S -B warden.py FD CONFIG` inside a jail, or called by enter.py. It reads requests from the
control socket, each a JSON object with a socket for a new supervisor, and ends when the other end of the control socket
is closed. It never sees a program: those are handed to the supervisors.
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
    """proc: an open /proc that shows this process; default: the jail's own. Never returns."""
    if config["nested"]:  # whose parent is what built the jail, which the jail is not to outlive
        kernel.die_with_parent()
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if proc is None else proc
    _offer_to_the_memory_killer(proc)
    kernel.set_dumpable(False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    sys.path += config["path"]
    for name in config["warm"]:
        importlib.import_module(name)
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path.remove(here)  # its modules are loaded; a program has its own
    own = [name for name, module in sys.modules.items() if (getattr(module, "__file__", "") or "").startswith(here)]
    site.setquit()
    view = _try_nesting(proc, config) if config["nested"] else ""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the copies
    gc.freeze()  # or every copy's first collection would copy all of this interpreter's memory
    setting = supervisor.Setting(config, proc, view or watch.ONE, nested=bool(view), own_modules=own)
    with socket.socket(fileno=control) as requests:
        requests.send(json.dumps({"nested": bool(view), "view": setting.view}).encode())
        while True:
            request, descriptors, _, _ = socket.recv_fds(requests, supervisor.REQUEST_BYTES, 1)
            if not request:
                if not config["nested"]:  # elsewhere its files go with its namespaces
                    folders.remove(config["home"])
                os._exit(0)
            with contextlib.suppress(OSError):  # that no supervisor comes is told by its socket's end
                if kernel.fork_into(NESTED if view else 0) == 0:
                    requests.close()
                    supervisor.main(descriptors[0], json.loads(request), setting)
            for descriptor in descriptors:
                os.close(descriptor)


def _offer_to_the_memory_killer(proc: int) -> None:
    """Where memory runs out, the kernel is to end programs before anything else of the user's."""
    kernel.set_dumpable(True)  # the entries of a process that is not dumpable belong to root
    with contextlib.suppress(OSError):
        descriptor = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=proc)
        os.write(descriptor, b"1000")
        os.close(descriptor)


def _try_nesting(proc: int, config: dict) -> str:
    """How supervisors with namespaces of their own inside the jail's see their processes; "" if they can have none."""
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

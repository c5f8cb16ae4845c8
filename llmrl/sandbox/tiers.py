"""The tiers, which are the ways to build a jail, strongest first, and the settings of each."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import site
import stat
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrl.sandbox.seccomp import system_call_filter

JAILED = Path(__file__).parent / "jailed"
HOME = "/box"
HOME_MB = 64
DEVICES = ("null", "random", "urandom")  # without zero: no limit counts memory in its shared mappings
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "MALLOC_ARENA_MAX": "2",  # the C library would reserve 64 MB of address space for each thread
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
WARM = (
    *("confined", "script", "command", "notebook", "serve", "grader", "wire"),
    *(
        "bisect",
        "collections",
        "copy",
        "datetime",
        "decimal",
        "fractions",
        "functools",
        "heapq",
        "io",
        "itertools",
        "json",
    ),
    *("math", "operator", "random", "re", "string", "typing", "contextlib", "dataclasses", "statistics"),
)
"""The modules that are imported once, before any program: the runners, and the modules that programs import most.

threading is left out: its work after every fork costs more than the few imports of it.
"""


@dataclass(frozen=True)
class Tier:
    """One way to build a jail. strong: a program has its own namespaces and sees none of the user's files."""

    name: str
    strong: bool
    summary: str


BUBBLEWRAP = Tier(
    "bubblewrap", True, "namespaces of users, mounts, processes, network and IPC, built by bubblewrap (bwrap)"
)
NAMESPACES = Tier("namespaces", True, "namespaces of users, mounts, processes, network and IPC, built by llmrl itself")
PROCESS = Tier("process", False, "a plain process: Landlock where the kernel has it, seccomp and limits alone")
TIERS = {tier.name: tier for tier in (BUBBLEWRAP, NAMESPACES, PROCESS)}


def tiers() -> tuple[Tier, ...]:
    """Return all tiers in the order in which they are tried."""
    return tuple(TIERS.values())


@dataclass(frozen=True)
class Launch:
    """The command line and the environment that start a tier's jail."""

    argv: list[str]
    environment: Mapping[str, str]


def launch(tier: Tier, control: int, folder: str) -> Launch:
    """Return how to start a tier's jail. folder: an empty folder, where the process tier keeps programs' files.

    Raises OSError if the tier's tool is missing or the tier would protect nothing.
    """
    if tier is BUBBLEWRAP and os.getuid() == 0:
        raise PermissionError("started by root, it would run programs as root's; tier namespaces does not")
    if tier is PROCESS and os.getuid() == 0 and not landlock_version() and not _open_to_all(_interpreter()):
        raise PermissionError("programs would run as root, as only root can read this Python, and without Landlock")
    config = _config(tier, folder)
    python = [str(_interpreter()), "-s", "-S", "-B"]
    if tier is BUBBLEWRAP:
        tool = shutil.which("bwrap")
        if tool is None:
            raise FileNotFoundError("bwrap is not installed")
        program = [*python, str(JAILED / "warden.py")]
        argv = [tool, *_bubblewrap_options(), "--", *program]
    else:
        argv = [*python, str(JAILED / ("enter.py" if tier is NAMESPACES else "warden.py"))]
    return Launch([*argv, str(control), json.dumps(config)], ENVIRONMENT)


def landlock_version() -> int:
    """Return the kernel's version of Landlock, 0 if the kernel has no Landlock."""
    return max(0, ctypes.CDLL(None).syscall(ctypes.c_long(444), None, ctypes.c_size_t(0), ctypes.c_uint(1)))


def _config(tier: Tier, folder: str) -> dict[str, Any]:
    filters = {"contained": system_call_filter(contained=True), "bare": system_call_filter(contained=False)}
    shown = visible()
    return {
        "nested": tier.strong,
        "home": HOME if tier.strong else folder,
        "path": [path for path in _packages() if os.path.isdir(path)],
        "warm": [name for name in WARM if (JAILED / f"{name}.py").exists() or name in sys.stdlib_module_names],
        "environment": dict(ENVIRONMENT),
        "landlock": landlock_version() > 0,
        "readable": ["/"] if tier.strong else [*shown, *(f"/dev/{name}" for name in DEVICES)],
        "become_nobody": not tier.strong and os.getuid() == 0 and _open_to_all(_interpreter()),
        "filters": {name: code.hex() if code else "" for name, code in filters.items()},
        "counts_apart": _kernel_version() >= (5, 14),
        "mounts": {
            "read_only": [path for path in shown if not os.path.islink(path)],
            "links": _links(shown),
            "devices": DEVICES,
            "home": HOME,
            "home_mb": HOME_MB,
        },
    }


def _bubblewrap_options() -> list[str]:
    shown = visible()
    options = ["--unshare-all", "--new-session", "--as-pid-1", "--uid", "65534", "--gid", "65534"]
    options += ["--hostname", "sandbox", "--proc", "/proc"]
    for name in DEVICES:
        options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for path in shown:
        if not os.path.islink(path):
            options += ["--ro-bind", path, path]
    for target, path in _links(shown):
        options += ["--symlink", target, path]
    return [*options, "--size", str(HOME_MB << 20), "--tmpfs", HOME, "--remount-ro", "/", "--chdir", "/"]


def visible() -> list[str]:
    """Return the paths that a program can read: the system's programs and libraries, this Python and its packages."""
    system = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives"]
    system += ["/etc/localtime", "/etc/ssl/certs"]
    own = [str(JAILED.resolve()), str(Path(sys.base_prefix).resolve()), *(os.path.realpath(p) for p in _packages())]
    paths = [path for path in system if os.path.lexists(path)]
    for path in own:
        if not any(path == p or path.startswith(f"{p}/") for p in paths):
            paths.append(path)
    return paths


def _links(shown: list[str]) -> list[list[str]]:
    links = [[os.readlink(path), path] for path in shown if os.path.islink(path)]
    if not any(path.startswith("/tmp/") for path in shown):
        links.append([HOME, "/tmp"])
    return [*links, [HOME, "/dev/shm"]]  # the C library keeps semaphores that processes share in /dev/shm


def _packages() -> list[str]:
    """Return the folders of this interpreter's installed packages."""
    own = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return sorted(path for path in own | set(site.getsitepackages()) if path and os.path.isdir(path))


def _interpreter() -> Path:
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _kernel_version() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


def _open_to_all(path: Path) -> bool:
    """Return whether any user can reach and run the file."""
    return all(place.stat().st_mode & stat.S_IXOTH for place in (path, *path.parents))

"""The system calls that build a jail and that Python's standard library lacks."""

from __future__ import annotations

import ctypes
import os
import platform
import stat
import struct

# mount(2)
MS_READ_ONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_NOATIME, MS_BIND, MS_REC, MS_PRIVATE = 1024, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_READ_ONLY, _NO_SUID, _NO_DEVICES, _AT_RECURSIVE, _AT_FDCWD = 1, 2, 4, 0x8000, -100
# clone(2), unshare(2)
NEW_MOUNTS, NEW_HOSTNAME, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USERS, NEW_PIDS, NEW_NETWORK, NEW_CGROUP = 0x10000000, 0x20000000, 0x40000000, 0x02000000
# prctl(2)
_PDEATHSIG, _SET_DUMPABLE, _SET_SECCOMP, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 4, 22, 24, 38
_SECCOMP_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

_NUMBERS = {"x86_64": {"clone": 56, "pivot_root": 155}, "aarch64": {"clone": 220, "pivot_root": 41}}
# these numbers are the same on all machines
_MOUNT_SETATTR = 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

# PyDLL keeps the interpreter's lock: a process made by clone() must return with the lock held.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _number(name: str) -> int:
    try:
        return _NUMBERS[platform.machine()][name]
    except KeyError:
        raise OSError(38, f"{name}: its number is not known on {platform.machine()}") from None


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str | None = None) -> None:
    """Call mount(2). Like every function of this module, this one raises OSError if the kernel refuses."""
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    arguments = (encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    _checked(_libc.mount(*arguments), f"mount {source} on {target}")


def make_read_only(target: str, recursive: bool = True) -> None:
    """Make a mount, and all mounts below it, read-only, without set-user-id programs and without devices."""
    attributes = struct.pack("4Q", _READ_ONLY | _NO_SUID | _NO_DEVICES, 0, 0, 0)
    path = (ctypes.c_int(_AT_FDCWD), target.encode(), ctypes.c_uint(_AT_RECURSIVE if recursive else 0))
    size = ctypes.c_size_t(len(attributes))
    _checked(_libc.syscall(ctypes.c_long(_MOUNT_SETATTR), *path, attributes, size), f"mount_setattr {target}")


def unmount(target: str) -> None:
    """Remove a mount at once, even while processes use it."""
    _checked(_libc.umount2(target.encode(), _MNT_DETACH), f"unmount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root and move the old root to `old`."""
    _checked(_libc.syscall(ctypes.c_long(_number("pivot_root")), new.encode(), old.encode()), "pivot_root")


def unshare(flags: int) -> None:
    """Move this process into new namespaces."""
    _checked(_libc.unshare(flags), "unshare")


def set_hostname(name: str) -> None:
    """Set the host name that this namespace shows."""
    _checked(_libc.sethostname(name.encode(), ctypes.c_size_t(len(name))), "sethostname")


def fork_into(flags: int) -> int:
    """Fork a child into new namespaces; returns 0 in the child and the child's process id in the parent."""
    if not flags:
        return os.fork()
    number = _number("clone")
    ctypes.pythonapi.PyOS_BeforeFork()
    zero = ctypes.c_long(0)
    pid = _libc.syscall(ctypes.c_long(number), ctypes.c_long(flags | 17), zero, zero, zero, zero)  # 17: SIGCHLD
    error = ctypes.get_errno()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"clone: {os.strerror(error)}")
    return pid


def _prctl(option: int, argument: int, what: str) -> None:
    rest = (ctypes.c_ulong(0),) * 3
    _checked(_libc.prctl(ctypes.c_int(option), ctypes.c_ulong(argument), *rest), what)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    _prctl(_PDEATHSIG, 9, "prctl(PR_SET_PDEATHSIG)")


def set_dumpable(dumpable: bool) -> None:
    """Set whether processes of the same user may read this process's memory and /proc entries."""
    _prctl(_SET_DUMPABLE, int(dumpable), "prctl(PR_SET_DUMPABLE)")


def drop_privileges() -> None:
    """Give up all capabilities, and any that a program started by exec would gain."""
    for capability in range(64):
        try:
            _prctl(_CAPBSET_DROP, capability, "prctl(PR_CAPBSET_DROP)")
        except OSError:  # this number is past the kernel's last capability, or this process may drop none
            break
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, struct.pack("6I", *(0,) * 6)), "capset")
    _prctl(_NO_NEW_PRIVS, 1, "prctl(PR_SET_NO_NEW_PRIVS)")


def filter_system_calls(program: bytes) -> None:
    """Install a BPF program (an array of 8-byte instructions) for this process and its descendants."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    holder = ctypes.create_string_buffer(header, len(header))
    rest = (ctypes.c_ulong(0),) * 2
    arguments = (ctypes.c_ulong(_SECCOMP_FILTER), ctypes.c_ulong(ctypes.addressof(holder)), *rest)
    _checked(_libc.prctl(ctypes.c_int(_SET_SECCOMP), *arguments), "prctl(PR_SET_SECCOMP)")


def landlock_version() -> int:
    """Return the kernel's version of Landlock, 0 if the kernel has no Landlock."""
    return max(0, _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(1)))


_READ = 1 | 4 | 8  # execute, read files, read directories
_FILE_ONLY = 1 | 2 | 4 | 1 << 14 | 1 << 15  # the rights that a rule on a file may grant


def restrict_paths(readable: list[str | int], writable: list[str | int]) -> None:
    """Use Landlock to limit this process and its descendants to these paths or open folders, and to no TCP port.

    Newer kernels also stop signals to outside processes, and connections to their abstract sockets.
    """
    version = landlock_version()
    if not version:
        raise OSError(38, "landlock: the kernel has none")
    handled = (1 << 13) - 1
    handled |= (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0) | (1 << 15 if version >= 5 else 0)
    rules = struct.pack("QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    rules = rules[: 24 if version >= 6 else 16 if version >= 4 else 8]
    arguments = (rules, ctypes.c_size_t(len(rules)), ctypes.c_uint(0))
    ruleset = _checked(_libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), *arguments), "landlock_create_ruleset")
    for paths, rights in ((readable, _READ), (writable, handled)):
        for path in paths:
            try:
                place = os.dup(path) if isinstance(path, int) else os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            allowed = rights if stat.S_ISDIR(os.fstat(place).st_mode) else rights & _FILE_ONLY
            rule = struct.pack("=Qi", allowed & handled, place)
            added = _libc.syscall(
                ctypes.c_long(_LANDLOCK_ADD), ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0)
            )
            _checked(added, f"landlock_add_rule {path}")
            os.close(place)
    restricted = _libc.syscall(ctypes.c_long(_LANDLOCK_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint(0))
    _checked(restricted, "landlock_restrict_self")
    os.close(ruleset)

"""The system calls that a program in the sandbox may make, as a BPF program written by libseccomp."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Iterator

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_MASKED_EQUAL = 7
_WORD, _WHOLE = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_OPTIMIZE, _BINARY_TREE = 8, 2

FILES = """
    access chdir chmod close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
    fallocate chown fchdir fchmod fchmodat fchmodat2 fchown fchownat fgetxattr flistxattr flock fstat fstatfs
    ftruncate futimesat getcwd getdents getdents64 getxattr lchown lgetxattr link linkat listxattr llistxattr lseek
    lstat mkdir mkdirat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile stat statfs statx symlink symlinkat
    truncate umask unlink unlinkat utime utimensat utimes write writev
"""
SYNCING = "fdatasync fsync msync sync_file_range"
MEMORY = "brk membarrier mincore mlock mlock2 mprotect mremap munlock munmap pkey_alloc pkey_free pkey_mprotect"
PROCESSES = """
    arch_prctl capget execve execveat exit exit_group fork futex futex_waitv get_robust_list get_thread_area getcpu
    getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority getresgid getresuid
    getrlimit getrusage getsid gettid getuid pidfd_open restart_syscall rseq sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_yield set_robust_list set_thread_area set_tid_address setitimer setpgid setsid times uname vfork wait4
    waitid sysinfo
"""
SIGNALS = """
    alarm pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait sigaltstack
    signalfd signalfd4
"""
SENDING_SIGNALS = "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal"
WAITING = """
    clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2
    epoll_wait eventfd eventfd2 getrandom gettimeofday nanosleep pipe pipe2 poll ppoll pselect6 select time
    timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
    timerfd_settime
"""
CONNECTED_SOCKETS = """
    getpeername getsockname getsockopt shutdown recvfrom recvmsg recvmmsg sendto sendmsg sendmmsg
"""
STARTING = "execve execveat fork vfork"
CHANGING_FILES = """
    chmod chown fchmod fchmodat fchmodat2 fchown fchownat futimesat lchown utime utimensat utimes
"""

_CLONE_THREAD = 0x00010000
_CLONE_NAMESPACES = 0x7E020000  # every CLONE_NEW flag that clone() takes
_MAP_PRIVATE, _MAP_KIND, _MAP_ANONYMOUS, _MAP_HUGE = 2, 0xF, 0x20, 0x40000
_MAP_SHARED_KINDS = (1, 3)
# without 20 and 21, which write pages to swap, where they would not count as resident memory
_MADVISE = (*range(5), 8, 9, 10, 11, *range(14, 20), 22, 23, 102, 103)
_RLIMITS, _RLIMIT_CORE = range(16), 4
_TERMINAL_QUESTIONS_AND_DESCRIPTORS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# copies, flags, locks and questions; without signals to other processes (8, 10, 15), leases and sizes of pipes
_FCNTL = (*range(8), 9, 11, 36, 37, 38, 1025, 1030, 1032, 1033, 1034)
# dumpable, name, reading of capabilities, names of mappings; without 1, which would let a program outlive its parent
_PRCTL = (2, 3, 4, 15, 16, 21, 23, 27, 30, 38, 39, 40, 0x53564D41)
_AF_UNIX, _SOCKET_KIND, _STREAM, _SEQPACKET = 1, 0xF, 1, 5


@functools.cache
def system_call_filter(*, contained: bool) -> bytes | None:
    """Return the filter for this machine, None without libseccomp; a forbidden system call fails with EPERM.

    Forbidden are sockets, tracing and reading other processes, mounts, namespaces, keys, modules, BPF, io_uring,
    userfaultfd, memory that no process is charged for, leases, clocks and hosts' settings. contained: the program has
    its own namespaces. A program without them may not start processes (only threads), send signals, or change the
    permissions, owners and times of files, which Landlock does not protect.
    """
    library = _library()
    if library is None:
        return None
    context = library.seccomp_init(ctypes.c_uint32(_ERRNO | errno.EPERM))
    try:
        library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)  # an old libseccomp ignores this
        names = set(f"{FILES} {MEMORY} {PROCESSES} {SIGNALS} {WAITING} {CONNECTED_SOCKETS}".split())
        names = (
            names | set(SENDING_SIGNALS.split()) if contained else names - set(f"{STARTING} {CHANGING_FILES}".split())
        )
        for name in sorted(names):
            _rule(library, context, _ALLOW, name)
        for name, *comparisons in _conditional(contained):
            _rule(library, context, _ALLOW, name, *comparisons)
        for name in SYNCING.split():  # success without syncing: no file outlives a program, and syncs slow the disk
            _rule(library, context, _ERRNO, name)
        # a filter cannot see clone3's flags; ENOSYS makes the C library use clone
        _rule(library, context, _ERRNO | errno.ENOSYS, "clone3")
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _conditional(contained: bool) -> Iterator[tuple[str, *tuple[_Comparison, ...]]]:
    """Yield the calls that are allowed with some arguments only."""
    # a contained program may start threads and processes, but no namespaces; any other may start threads alone
    flags, value = (0, 0) if contained else (_CLONE_THREAD, _CLONE_THREAD)
    yield "clone", _masked(0, _CLONE_NAMESPACES | flags, value)
    # no process is charged for a shared mapping without a file
    yield "mmap", _masked(3, _MAP_KIND | _MAP_HUGE, _MAP_PRIVATE)
    for kind in _MAP_SHARED_KINDS:
        yield "mmap", _masked(3, _MAP_KIND | _MAP_ANONYMOUS | _MAP_HUGE, kind)
    # a datagram socket can send to any address without having been connected to it
    for kind in (_STREAM, _SEQPACKET):
        yield "socketpair", _masked(0, _WORD, _AF_UNIX), _masked(1, _SOCKET_KIND, kind)
    # limits of process 0, the caller, alone: the supervisor runs under the same user; confined.py limits core dumps
    yield "prlimit64", _masked(0, _WORD, 0), _masked(2, _WHOLE, 0)
    for kind in _RLIMITS:
        if kind != _RLIMIT_CORE:
            yield "prlimit64", _masked(0, _WORD, 0), _masked(1, _WORD, kind)
            yield "setrlimit", _masked(0, _WORD, kind)
    for name, place, values in (
        ("ioctl", 1, _TERMINAL_QUESTIONS_AND_DESCRIPTORS),
        ("fcntl", 1, _FCNTL),
        ("prctl", 0, _PRCTL),
        ("madvise", 2, _MADVISE),
    ):
        for value in values:
            yield name, _masked(place, _WORD, value)


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def _masked(argument: int, mask: int, value: int) -> _Comparison:
    return _Comparison(argument, _MASKED_EQUAL, mask, value)


def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    rule = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison))
    library.seccomp_rule_add_array.argtypes = rule
    return library


def _rule(library: ctypes.CDLL, context: int, action: int, name: str, *comparisons: _Comparison) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == -1:  # this library or machine does not know the call, so the filter forbids it
        return
    compared = (_Comparison * len(comparisons))(*comparisons)
    added = library.seccomp_rule_add_array(context, action, number, len(comparisons), compared)
    if added < 0 and number >= 0:
        raise OSError(-added, f"libseccomp: {name}: {os.strerror(-added)}")


def _exported(library: ctypes.CDLL, context: int) -> bytes:
    memory = os.memfd_create("filter")
    try:
        failed = library.seccomp_export_bpf(context, memory)
        if failed:
            raise OSError(-failed, f"libseccomp: {os.strerror(-failed)}")
        os.lseek(memory, 0, os.SEEK_SET)
        return os.read(memory, 1 << 20)
    finally:
        os.close(memory)

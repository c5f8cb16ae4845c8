"""The system calls that a program in the sandbox may make, as a BPF program written by libseccomp."""

from __future__ import annotations

import ctypes
import errno
import functools
import os

_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_MASKED_EQUAL = 7

FILES = """
    access chdir chmod close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate
    chown fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fstat fstatfs
    fsync ftruncate futimesat getcwd getdents getdents64 getxattr lchown lgetxattr link linkat listxattr llistxattr
    lseek lstat mkdir mkdirat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile splice stat statfs statx symlink
    symlinkat sync_file_range tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev
"""
MEMORY = """
    brk madvise membarrier mincore mlock mlock2 mmap mprotect mremap msync munlock munmap pkey_alloc pkey_free
    pkey_mprotect
"""
PROCESSES = """
    arch_prctl capget execve execveat exit exit_group fork futex futex_waitv get_robust_list get_thread_area getcpu
    getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority getresgid getresuid
    getrlimit getrusage getsid gettid getuid pidfd_open prctl restart_syscall rseq sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
    sched_yield set_robust_list set_thread_area set_tid_address setitimer setpgid setrlimit setsid times uname vfork
    wait4 waitid sysinfo
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
    socketpair getpeername getsockname getsockopt setsockopt shutdown recvfrom recvmsg recvmmsg sendto sendmsg
    sendmmsg
"""
STARTING = "execve execveat fork vfork"
_CLONE_THREAD = 0x00010000
_NAMESPACES = 0x7E020000  # every CLONE_NEW flag that clone() takes


@functools.cache
def system_call_filter(*, contained: bool) -> bytes | None:
    """The filter for this machine, or None without libseccomp: what is not allowed fails with EPERM.

    Not allowed: opening sockets, tracing and reading other processes, mounts, namespaces, keys, modules, BPF, io_uring,
    userfaultfd, shared memory outside files, clocks and hosts' settings. contained: the program has its own process
    namespace; without one it may not start processes (threads only) or send signals either.
    """
    library = _library()
    if library is None:
        return None
    context = library.seccomp_init(ctypes.c_uint32(_ERRNO | errno.EPERM))
    try:
        names = set(f"{FILES} {MEMORY} {PROCESSES} {SIGNALS} {WAITING} {CONNECTED_SOCKETS}".split())
        names = names | set(SENDING_SIGNALS.split()) if contained else names - set(STARTING.split())
        for name in sorted(names):
            _rule(library, context, _ALLOW, name)
        # with contained: threads and processes, but no namespaces; else threads alone
        mask, value = (_NAMESPACES, 0) if contained else (_NAMESPACES | _CLONE_THREAD, _CLONE_THREAD)
        _rule(library, context, _ALLOW, "clone", _Comparison(0, _MASKED_EQUAL, mask, value))
        # its flags cannot be looked into; told that it is not there, the C library uses clone
        _rule(library, context, _ERRNO | errno.ENOSYS, "clone3")
        # of others it would reach the supervisor, which runs under the same user
        _rule(library, context, _ALLOW, "prlimit64", _Comparison(0, _MASKED_EQUAL, 0xFFFFFFFF, 0))
        for request in (
            0x5401,
            0x5413,
            0x541B,
            0x5421,
            0x5450,
            0x5451,
        ):  # terminal questions, FIONREAD, FIONBIO, FIO(N)CLEX
            _rule(library, context, _ALLOW, "ioctl", _Comparison(1, _MASKED_EQUAL, 0xFFFFFFFF, request))
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    rule = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Comparison))
    library.seccomp_rule_add_array.argtypes = rule
    library.seccomp_rule_add_exact_array.argtypes = rule
    return library


def _rule(library: ctypes.CDLL, context: int, action: int, name: str, comparison: _Comparison | None = None) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number == -1:  # newer than the library, or not a call of this machine: not allowed then
        return
    compared = ctypes.byref(comparison) if comparison else None
    added = library.seccomp_rule_add_array(context, action, number, 1 if comparison else 0, compared)
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

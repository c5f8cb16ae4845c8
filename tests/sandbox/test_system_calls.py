"""The system calls that a program in the sandbox can make: each test makes them."""

from __future__ import annotations

import errno
import signal
import socket

import pytest
from system_calls import NEEDS_LIBRARY, answer, answers, number, without_library

from llmrl.sandbox import PROCESS, Sandbox

BAD = -1  # a number that is neither a file descriptor nor an address

DENIED: dict[str, tuple] = {
    "socket": (1, 99, 0),
    "connect": (BAD, "room", 16),
    "bind": (BAD, "room", 16),
    "listen": (BAD, 1),
    "accept": (BAD, 0, 0),
    "accept4": (BAD, 0, 0, 0),
    "setsockopt": (BAD, 1, 2, "room", 4),
    "ptrace": (99, 0, 0, 0),
    "process_vm_readv": (1 << 22, "room", 1, "room", 1, 99),
    "process_vm_writev": (1 << 22, "room", 1, "room", 1, 99),
    "process_madvise": (BAD, "room", 1, 0, 99),
    "pidfd_getfd": (BAD, 0, 0),
    "kcmp": (1 << 22, 1 << 22, 99, 0, 0),
    "mount": (BAD, BAD, BAD, 0, 0),
    "umount2": (BAD, 1 << 30),
    "pivot_root": (BAD, BAD),
    "chroot": (BAD,),
    "unshare": (1 << 30 | 1,),
    "setns": (BAD, 0),
    "open_tree": (BAD, BAD, 1 << 30),
    "move_mount": (BAD, BAD, BAD, BAD, 1 << 30),
    "fsopen": (BAD, 1 << 30),
    "mount_setattr": (BAD, BAD, 1 << 30, 0, 0),
    "io_uring_setup": (0, BAD),
    "io_uring_enter": (BAD, 0, 0, 0, 0, 0),
    "io_uring_register": (BAD, 0, 0, 0),
    "bpf": (9999, "room", 0),
    "perf_event_open": (BAD, 0, 0, BAD, 0),
    "userfaultfd": (1 << 30,),
    "add_key": (BAD, 0, 0, 0, 0),
    "request_key": (BAD, 0, 0, 0),
    "keyctl": (9999, 0, 0, 0, 0),
    "memfd_create": (BAD, 0),
    "memfd_secret": (1 << 30,),
    "shmget": (0, 0, 0),
    "shmat": (BAD, 0, 0),
    "msgget": (0, 0),
    "semget": (0, 0, 0),
    "mq_open": (BAD, 0, 0, 0),
    "open_by_handle_at": (BAD, BAD, 0),
    "name_to_handle_at": (BAD, BAD, BAD, BAD, 1 << 30),
    "fanotify_init": (1 << 30, 0),
    "inotify_init1": (1 << 30,),
    "mknodat": (BAD, "room", 0o100644, 0),
    "setxattr": (BAD, BAD, BAD, 0, 0),
    "sched_setaffinity": (1 << 22, 8, BAD),
    "sched_setscheduler": (1 << 22, 0, BAD),
    "setpriority": (99, 0, 0),
    "ioprio_set": (99, 0, 0),
    "set_mempolicy": (99, 0, 0),
    "mbind": (1, 0, 0, 0, 0, 0),
    "move_pages": (1 << 22, 0, 0, 0, 0, 1 << 20),
    "vmsplice": (BAD, 0, 0, 0),
    "splice": (BAD, 0, BAD, 0, 1, 0),
    "tee": (BAD, BAD, 1, 0),
    "capset": (0, 0),
    "setuid": (BAD,),
    "setgroups": (1 << 30, 0),
    "seccomp": (99, 0, 0),
    "landlock_create_ruleset": (0, 1, 0),
    "personality": (0xFFFFFFFF,),
    "settimeofday": (BAD, BAD),
    "clock_settime": (9999, "room"),
    "swapon": (BAD, 0),
    "syslog": (9999, 0, 0),
    "reboot": (0, 0, 0, 0),
    "quotactl": (0, BAD, 0, 0),
}
"""Calls that are denied to all programs, with wrong arguments, so that a call that were allowed would do nothing."""
BY_PRIVILEGE = {
    *("pivot_root", "move_mount", "fsopen", "bpf", "perf_event_open", "userfaultfd", "open_by_handle_at", "syslog"),
    *("fanotify_init", "swapon", "reboot", "setgroups", "quotactl"),
}
"""Calls that the kernel refuses to a process without privileges before it reads the arguments."""

ALLOWED: dict[str, tuple] = {
    "getpid": (),
    "getrandom": ("room", 16, 0),
    "pipe2": ("room", 0),
    "eventfd2": (0, 0),
    "epoll_create1": (0,),
    "getcwd": ("room", 4096),
    "sysinfo": ("room",),
    "uname": ("room",),
    "sched_yield": (),
    "sched_getaffinity": (0, 128, "room"),
    "clock_gettime": (1, "room"),
    "timerfd_create": (1, 0),
    "membarrier": (0, 0, 0),
    "fsync": (1,),  # the filter answers this call without the kernel
    "sync_file_range": (BAD, 0, 0, 0),
}


@NEEDS_LIBRARY
def test_forbidden_calls_fail(filtered: Sandbox) -> None:
    found = answers(filtered, DENIED)
    assert len(found) > len(DENIED) - 8
    assert {name: told for name, told in found.items() if told != "EPERM"} == {}


@NEEDS_LIBRARY
def test_the_filter_is_what_denies_these_calls() -> None:
    """Without the filter, the kernel reads the arguments and finds them wrong."""
    calls = {name: arguments for name, arguments in DENIED.items() if name not in BY_PRIVILEGE}
    with without_library():
        unfiltered = Sandbox(PROCESS)
    with unfiltered:
        found = answers(unfiltered, calls)
    assert {name: told for name, told in found.items() if told == "EPERM"} == {}


@NEEDS_LIBRARY
def test_calls_that_programs_need_work(filtered: Sandbox) -> None:
    found = answers(filtered, ALLOWED)
    assert len(found) > len(ALLOWED) - 3
    assert {name: told for name, told in found.items() if told != "done"} == {}


FAMILIES = sorted({int(value) for name, value in vars(socket).items() if name.startswith("AF_")})


@NEEDS_LIBRARY
def test_no_socket_of_any_family_can_be_opened(filtered: Sandbox) -> None:
    source = f"print({{call({number('socket')}, f, k, 0) for f in {FAMILIES} for k in (1, 2, 3, 5, 1 | 2048)}})"
    assert len(FAMILIES) > 10
    assert answer(filtered, source) == "{'EPERM'}"


@NEEDS_LIBRARY
@pytest.mark.parametrize("kind, told", [(1, "done"), (5, "done"), (1 | 0o2000000, "done"), (2, "EPERM"), (3, "EPERM")])
def test_socket_pairs_are_of_kinds_that_reach_no_other_process(filtered: Sandbox, kind: int, told: str) -> None:
    call = f"print(call({number('socketpair')}, %d, {kind}, 0, 'room'))"
    assert answer(filtered, call % socket.AF_UNIX) == told
    assert answer(filtered, call % socket.AF_INET) == "EPERM"


CLONE_FILES, CLONE_THREAD, SIGCHLD = 0x400, 0x10000, signal.SIGCHLD.value
NEW = {
    **{"time": 0x80, "mounts": 0x20000, "cgroup": 0x02000000, "hostname": 0x04000000, "ipc": 0x08000000},
    **{"users": 0x10000000, "pids": 0x20000000, "network": 0x40000000},
}
CLONE = "result = libc.syscall(ctypes.c_long({number}), *map(ctypes.c_long, ({flags}, 0, 0, 0, 0)))\n"


def clone(sandbox: Sandbox, flags: int) -> str:
    source = CLONE.format(number=number("clone"), flags=flags)
    source += "if result == 0: os._exit(5)\n"
    source += "told = errno.errorcode[ctypes.get_errno()] if result < 0 else os.waitstatus_to_exitcode(os.wait()[1])\n"
    return answer(sandbox, source + "print(told)")


@NEEDS_LIBRARY
def test_processes_start_only_where_they_are_contained(contained: Sandbox, bare: Sandbox) -> None:
    assert clone(contained, SIGCHLD) == "5"
    assert clone(bare, SIGCHLD) == "EPERM"
    names = [name for name in ("fork", "vfork") if number(name) >= 0]  # some machines lack these calls
    for name in names:
        source = f"result = call({number(name)})\nif os.getpid() != first: os._exit(5)\nprint(result)"
        if name == "fork":  # vfork's child would return on its parent's stack
            assert answer(contained, f"first = os.getpid()\n{source}") == "done"
        assert answer(bare, f"first = os.getpid()\n{source}") == "EPERM"
    replace = "import os\ntry: os.execv('/bin/sh', ['sh', '-c', 'echo replaced'])\nexcept OSError as e: print(e.errno)"
    assert answer(contained, replace) == "replaced"
    assert answer(bare, replace) == str(errno.EPERM)


@NEEDS_LIBRARY
@pytest.mark.parametrize("name", [name for name in NEW if name != "time"])
def test_no_namespaces_can_be_made(filtered: Sandbox, name: str) -> None:
    assert clone(filtered, SIGCHLD | NEW[name]) == "EPERM"
    assert clone(filtered, SIGCHLD | NEW["users"] | NEW[name]) == "EPERM"
    assert answer(filtered, f"print(call({number('unshare')}, {NEW[name]}))") == "EPERM"


@NEEDS_LIBRARY
def test_nothing_at_all_can_be_unshared(filtered: Sandbox) -> None:
    for flags in (0, CLONE_FILES, NEW["time"]):
        assert answer(filtered, f"print(call({number('unshare')}, {flags}))") == "EPERM"


@NEEDS_LIBRARY
def test_clone3_is_not_there_so_that_threads_start_by_clone(filtered: Sandbox) -> None:
    assert answer(filtered, f"print(call({number('clone3')}, 'room', 88))") == "ENOSYS"
    threads = "import threading\nt = threading.Thread(target=print, args=('in a thread',)); t.start(); t.join()"
    assert answer(filtered, threads) == "in a thread"


@NEEDS_LIBRARY
def test_a_program_reads_and_lowers_only_its_own_limits(filtered: Sandbox) -> None:
    source = """
import resource
def prlimit(pid, kind, new):
    try: return resource.prlimit(pid, kind, *([new] if new else [])) and "done"
    except OSError as error: return errno.errorcode[error.errno]
NOFILE, CORE, own = resource.RLIMIT_NOFILE, resource.RLIMIT_CORE, os.getpid()
print(prlimit(0, NOFILE, None), prlimit(0, NOFILE, (30, 30)), prlimit(0, CORE, None), prlimit(0, CORE, (0, 0)))
print(prlimit(os.getppid() or 1, NOFILE, None), prlimit(1, NOFILE, (9, 9)), prlimit(own, NOFILE, (9, 9)))
"""
    assert answer(filtered, source).splitlines() == ["done done done EPERM", "EPERM EPERM EPERM"]
    raised = "import resource\ntry: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
    raised += "except ValueError as e: print(e)"
    assert answer(filtered, raised) == "not allowed to raise maximum limit"


@NEEDS_LIBRARY
@pytest.mark.parametrize(
    "request_, denied",
    [
        *((request, True) for request in (0x5412, 0x541C, 0x5423, 0x540E, 0x5402, 0x5403, 0x8933, 0x40049409)),
        *((request, False) for request in (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
    ],
)
def test_terminals_are_only_asked(filtered: Sandbox, request_: int, denied: bool) -> None:
    """TIOCSTI, TIOCLINUX, TIOCSETD, TIOCSCTTY, TCSETS, TCSETSW, SIOCGIFINDEX and FICLONE are denied."""
    for high in (0, 1 << 32):  # the kernel reads only the lower half
        told = answer(filtered, f"print(call({number('ioctl')}, 1, {request_ | high}, 'room'))")
        assert (told == "EPERM") == denied


@NEEDS_LIBRARY
@pytest.mark.parametrize(
    "call, told",
    [
        (("fcntl", 1, 1, 0), "done"),  # F_GETFD
        (("fcntl", 1, 3, 0), "done"),  # F_GETFL
        (("fcntl", 1, 1030, 0), "done"),  # F_DUPFD_CLOEXEC
        (("fcntl", 1, 8, 1), "EPERM"),  # F_SETOWN
        (("fcntl", 1, 10, 9), "EPERM"),  # F_SETSIG
        (("fcntl", 1, 15, "room"), "EPERM"),  # F_SETOWN_EX
        (("fcntl", 1, 1024, 0), "EPERM"),  # F_SETLEASE
        (("fcntl", 1, 1026, 0), "EPERM"),  # F_NOTIFY
        (("fcntl", 1, 1031, 1 << 20), "EPERM"),  # F_SETPIPE_SZ
        (("prctl", 3, 0, 0, 0, 0), "done"),  # PR_GET_DUMPABLE
        (("prctl", 15, "room", 0, 0, 0), "done"),  # PR_SET_NAME
        (("prctl", 1, 0, 0, 0, 0), "EPERM"),  # PR_SET_PDEATHSIG
        (("prctl", 22, 1, 0, 0, 0), "EPERM"),  # PR_SET_SECCOMP
        (("prctl", 36, 1, 0, 0, 0), "EPERM"),  # PR_SET_CHILD_SUBREAPER
        (("prctl", 0x59616D61, -1, 0, 0, 0), "EPERM"),  # PR_SET_PTRACER
        (("mmap", 0, 4096, 3, 0x22, -1, 0), "done"),  # private, anonymous
        (("mmap", 0, 4096, 3, 0x21, -1, 0), "EPERM"),  # shared, anonymous
        (("mmap", 0, 1 << 21, 3, 0x40022, -1, 0), "EPERM"),  # huge pages
        (("madvise", 0, 0, 4), "done"),  # MADV_DONTNEED
        (("madvise", 0, 0, 21), "EPERM"),  # MADV_PAGEOUT
        (("madvise", 0, 0, 100), "EPERM"),  # MADV_HWPOISON
    ],
    ids=str,
)
def test_some_calls_work_with_harmless_arguments_only(filtered: Sandbox, call: tuple, told: str) -> None:
    name, *arguments = call
    assert answer(filtered, f"print(call({number(name)}, *{arguments!r}))") == told


@NEEDS_LIBRARY
def test_a_file_can_be_mapped_shared(filtered: Sandbox) -> None:
    source = f"""
file = os.open("f", os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 4096)
print(call({number("mmap")}, 0, 4096, 3, 1, file, 0))
"""
    assert answer(filtered, source) == "done"


@NEEDS_LIBRARY
def test_only_contained_programs_send_signals(contained: Sandbox, bare: Sandbox) -> None:
    calls = {
        "kill": (0, 0),
        "tkill": (1 << 22, 0),
        "tgkill": (1 << 22, 1 << 22, 0),
        "pidfd_send_signal": (BAD, 0, 0, 0),
    }
    calls |= {"rt_sigqueueinfo": (1 << 22, 0, "room"), "rt_tgsigqueueinfo": (1 << 22, 1 << 22, 0, "room")}
    assert set(answers(bare, calls).values()) == {"EPERM"}
    told = answers(contained, calls)
    assert told["kill"] == "done"
    assert (told["tkill"], told["tgkill"], told["pidfd_send_signal"]) == ("ESRCH", "ESRCH", "EBADF")


@NEEDS_LIBRARY
def test_only_contained_programs_change_a_files_owner_and_mode(contained: Sandbox, bare: Sandbox) -> None:
    source = """
import os
open("f", "w").close()
told = []
for change in (lambda: os.chmod("f", 0o600), lambda: os.utime("f", (1, 1)), lambda: os.chown("f", -1, -1)):
    try: told.append(change())
    except OSError as error: told.append(errno.errorcode[error.errno])
print(told)
"""
    assert answer(contained, source) == "[None, None, None]"
    assert answer(bare, source) == "['EPERM', 'EPERM', 'EPERM']"

"""Attacks on other processes: the trainer, the supervisor, whoever else runs."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import struct
import termios
import threading
import time

from llmrl.sandbox.attacks.attack import LOOP_SECONDS, attack
from llmrl.sandbox.attacks.hostile import attempt, breached, call, libc, targets, trying
from llmrl.sandbox.limits import Execution


def _went_on(execution: Execution) -> str:
    return "" if execution.exit_code == 7 else f"ended as {execution.ended} {execution.exit_code}"


@attack(real=True)
def kill():
    """Kill another process of the user's."""
    with trying():
        os.kill(targets.victim, signal.SIGKILL)


@attack()
def reach_the_trainer():
    """Be allowed to send signals to the trainer (none is sent)."""
    for pid in (targets.trainer, -targets.trainer):
        if attempt(os.kill, pid, 0):
            breached(f"{pid}")


@attack()
def kill_everything():
    """Kill every process that may be killed, in one call."""
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
        with trying():
            os.kill(-1, number)


@attack(judge=_went_on)
def kill_the_supervisor():
    """End or stop the supervisor by any signal, then go on without one."""
    for number in range(1, 65):
        with trying():
            os.kill(os.getppid(), number)
    os._exit(7)


@attack(judge=_went_on)
def kill_by_descriptor():
    """Kill the supervisor or another process through descriptors, queued signals and signals to threads."""
    for pid in (targets.victim, os.getppid()):
        with trying():
            signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)
        call("rt_sigqueueinfo", pid, 9, struct.pack("128x"))
        call("tgkill", pid, pid, 9)
    os._exit(7)


@attack(cpu_seconds=LOOP_SECONDS)
def noise():
    """Keep the supervisor so busy with signals that it does not look at the limits."""

    def spam():
        while True:
            os.kill(os.getppid(), signal.SIGCHLD)

    for _ in range(4):
        threading.Thread(target=spam).start()


@attack(cpu_seconds=LOOP_SECONDS)
def zombies():
    """Keep the supervisor busy with the ends of orphans."""
    while True:
        with trying():
            if os.fork() == 0:
                os.fork()
                os._exit(0)
            os.wait()


@attack(real=True)
def trace():
    """Take over another process of the user's as a debugger does."""
    for request in (16, 0x4206):  # PTRACE_ATTACH, PTRACE_SEIZE
        if call("ptrace", request, targets.victim, 0, 0) >= 0:
            breached()
    time.sleep(0.1)


@attack(real=True)
def descriptors_of_others():
    """Copy open files out of another process of the user's."""
    with trying():
        descriptor = os.pidfd_open(targets.victim)
        for number in range(3):
            if call("pidfd_getfd", descriptor, number, 0) >= 0:
                breached(f"{number}")


@attack(real=True)
def limits_of_others():
    """Change the limits, the processors and the priority of another process of the user's."""
    if call("prlimit64", targets.victim, 7, struct.pack("2Q", 100, 100), None) >= 0:
        breached("limits")
    if call("sched_setaffinity", targets.victim, 8, struct.pack("Q", 1)) >= 0:
        breached("processors")
    if call("setpriority", 0, targets.victim, 19) >= 0:
        breached("priority")
    if call("ioprio_set", 1, targets.victim, 3 << 13) >= 0:
        breached("disk priority")


@attack()
def take_over_the_supervisor():
    """Trace, limit, slow or copy from the supervisor, which runs under the same user."""
    supervisor = os.getppid()
    tries = {
        "trace": lambda: call("ptrace", 0x4206, supervisor, 0, 0),
        "limits": lambda: call("prlimit64", supervisor, 0, struct.pack("2Q", 1, 1), None),
        "read limits": lambda: call("prlimit64", supervisor, 0, None, ctypes.create_string_buffer(16)),
        "processors": lambda: call("sched_setaffinity", supervisor, 8, struct.pack("Q", 1)),
        "priority": lambda: call("setpriority", 0, supervisor, 19),
        "compare": lambda: call("kcmp", supervisor, os.getpid(), 1, 0, 0),
        "move pages": lambda: call("move_pages", supervisor, 0, None, None, None, 0),
    }
    for name, change in tries.items():
        if change() >= 0:
            breached(name)
    with trying():
        descriptor = os.pidfd_open(supervisor)
        for number in range(10):
            if call("pidfd_getfd", descriptor, number, 0) >= 0:
                breached(f"descriptor {number}")


@attack()
def debug_a_child():
    """Debug a child, to change its system calls after the filter has checked them."""
    child = os.fork()
    if child == 0:
        if call("ptrace", 0, 0, 0, 0) >= 0:  # PTRACE_TRACEME
            breached()
        os._exit(0)
    os.waitpid(child, 0)


@attack()
def own_priority():
    """Run before everything else on the machine, or on all of its processors."""
    for policy in (1, 2, 6):
        if call("sched_setscheduler", 0, policy, struct.pack("i", 1)) >= 0:
            breached(f"policy {policy}")
    if attempt(os.nice, -5) or attempt(os.sched_setaffinity, 0, range(os.cpu_count() or 1)):
        breached()


@attack()
def memory_killer():
    """Have the kernel kill other processes first when memory runs out."""
    for name, value in (("oom_score_adj", "-1000"), ("oom_score_adj", "0"), ("oom_adj", "-17"), ("autogroup", "-20")):
        with trying(), open(f"/proc/self/{name}", "w") as file:
            file.write(value)
            file.flush()
            breached(f"{name} {value}")


@attack()
def outlive():
    """Ask not to be ended when the supervisor is, and to inherit others' children."""
    for option, value in ((1, 0), (36, 1), (62, 1), (22, 1), (59, 1)):  # death signal, subreaper, core scheduling
        if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) == 0:
            breached(f"prctl {option}")


@attack()
def type_into_the_terminal():
    """Type a command into the terminal that the trainer was started from."""
    paths = ("/dev/tty", "/dev/pts/0", "/dev/console", "/proc/self/fd/0", "/proc/self/fd/1")
    for path in paths:
        with trying():
            descriptor = os.open(path, os.O_RDWR)
            for request in (termios.TIOCSTI, termios.TIOCSCTTY, 0x541C):
                if attempt(fcntl.ioctl, descriptor, request, b" " * 64):
                    breached(path)


@attack()
def leases():
    """Make others wait who write to files that they share, and fill the disk's queue."""
    with trying():
        fcntl.fcntl(os.open(os.__file__, os.O_RDONLY), 1024, fcntl.F_RDLCK)  # F_SETLEASE
        breached("lease")
    with trying():
        fcntl.fcntl(os.open("/usr", os.O_RDONLY), 1026, 1)  # F_NOTIFY
        breached("notices of changes")
    if call("vhangup") >= 0 or call("quotactl", 0, None, 0, None) >= 0:
        breached()

"""Attacks on time and processes, and crashes."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

from llmrl.sandbox.attacks.attack import LOOK_SECONDS, LOOP_SECONDS, QUICK, Attack, add, attack, ended_by
from llmrl.sandbox.attacks.hostile import breached, show, targets, trying
from llmrl.sandbox.limits import Limits


@attack()
def fork_bomb():
    """Start processes that start processes, without end."""
    while True:
        with trying():
            os.fork()


@attack()
def many_processes():
    """Have more processes at once than are allowed, for longer than it takes to look at them."""
    for count in range(1000):
        if count > targets.limits["processes"] + 4:
            time.sleep(LOOK_SECONDS)
            breached(f"{count} processes")
        if os.fork() == 0:
            time.sleep(60)


@attack()
def many_threads():
    """Have a thousand threads at once, for longer than it takes to look at them."""
    threading.stack_size(1 << 16)
    for count in range(1, 1001):
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        if count == 1000:
            time.sleep(LOOK_SECONDS)
            breached("1000 threads")


@attack(cpu_seconds=LOOP_SECONDS, judge=ended_by("cpu_time"))
def infinite_loop():
    """Compute without end."""
    while True:
        pass


@attack(cpu_seconds=LOOP_SECONDS, judge=ended_by("cpu_time"))
def infinite_loop_in_native_code():
    """Compute without end where no signal handler of Python's would run."""
    any(itertools.repeat(False))


@attack(cpu_seconds=LOOP_SECONDS, judge=ended_by("cpu_time"))
def endless_pattern():
    """Match a regular expression that takes exponential time."""
    re.match(r"(a+)+$", "a" * 64 + "b")


@attack(cpu_seconds=LOOP_SECONDS, judge=ended_by("cpu_time", "memory", "exited"))
def endless_number():
    """Compute a number that takes the universe's life and memory."""
    return len(str(9**9**9))


@attack(cpu_seconds=LOOP_SECONDS, judge=ended_by("cpu_time"))
def deaf_loop():
    """Ignore every signal that can be ignored, then compute without end."""
    for number in range(1, 65):
        with trying():
            signal.signal(number, signal.SIG_IGN)
    with trying():
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    while True:
        pass


@attack(wall_seconds=2.0, judge=ended_by("wall_time"))
def sleep():
    """Do nothing for ever."""
    time.sleep(1e6)


@attack(wall_seconds=2.0, judge=ended_by("wall_time", "exited"))
def stopped():
    """Stop, so as never to end."""
    os.kill(os.getpid(), signal.SIGSTOP)


@attack(cpu_seconds=LOOP_SECONDS, judge=ended_by("cpu_time", "exited"))
def time_split_over_processes():
    """Compute in many processes, each below the limit."""
    for _ in range(targets.limits["processes"]):
        if os.fork() == 0:
            while time.process_time() < targets.limits["cpu_seconds"] * 0.8:
                pass
            os._exit(0)
    spent = 0.0
    for _ in range(targets.limits["processes"]):
        used = os.wait3(0)[2]
        spent += used.ru_utime
    if spent > 3 * targets.limits["cpu_seconds"]:
        breached(f"{spent:.1f} s")


@attack()
def time_of_forgotten_children():
    """Compute in short-lived children that nobody waits for, whose time the kernel charges to nobody."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    spent = 0.0
    while spent < 3 * targets.limits["cpu_seconds"]:
        with contextlib.suppress(BlockingIOError):
            if os.fork() == 0:
                while time.process_time() < 0.005:
                    pass
                os._exit(0)
            spent += 0.005
        time.sleep(0.006)
    breached(f"{spent:.1f} s")


@attack(wall_seconds=3.0)
def daemon():
    """Leave a process behind that ignores signals, in a session of its own, after the program has ended."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 65):
                with trying():
                    signal.signal(number, signal.SIG_IGN)
            os.closerange(0, 256)
            time.sleep(1e6)
        os._exit(0)


@attack(wall_seconds=3.0)
def many_daemons():
    """Leave as many as may be, each of which starts others when one ends."""
    for _ in range(targets.limits["processes"]):
        with trying():
            if os.fork() == 0:
                os.setsid()
                while True:
                    with trying():
                        os.fork()
                    time.sleep(0.01)
    os._exit(0)


@attack(wall_seconds=2.0, judge=ended_by("wall_time"))
def threads_that_stay():
    """Wait at the end for threads that do not end, and for an exit handler that does not either."""
    atexit.register(time.sleep, 1e6)
    threading.Thread(target=time.sleep, args=(1e6,)).start()


@attack(judge=ended_by("killed", "exited", "cpu_time"))
def stack_overflow():
    """Overflow the stack of the interpreter itself."""
    sys.setrecursionlimit(1 << 30)
    nested = iter([])
    for _ in range(1 << 20):
        nested = itertools.chain(nested)
    next(nested)


@attack(judge=ended_by("killed", "exited", "memory", "cpu_time"))
def endless_recursion():
    """Recurse without end, the interpreter's limit lifted."""
    sys.setrecursionlimit(1 << 30)
    functools.reduce(lambda f, _: lambda: f() + f(), range(100000), lambda: 1)()


@attack(judge=ended_by("killed"))
def segmentation_fault():
    """Crash the interpreter."""
    ctypes.string_at(0)


@attack()
def shells():
    """Start what the system has: a shell that starts others in the background."""
    line = "for i in 1 2 3 4 5 6 7 8 9; do (sleep 1000 &) ; done; echo started"
    show(subprocess.run(["/bin/sh", "-c", line], capture_output=True, timeout=3).stdout)


def _text(name: str, aim: str, source: str, limits: Limits = QUICK) -> None:
    add(Attack(name, aim, source, limits, judge=ended_by("exited", "killed", "cpu_time", "memory")))


_text("deep source", "Crash the compiler with brackets in brackets", "(" * 100_000 + ")" * 100_000)
_text("long source", "Crash the compiler with a chain of operators", "-" * 1_000_000 + "1")
_text(
    "large constants",
    "Have the compiler compute for ever",
    f"x = {' * '.join(['9' * 999] * 999)}",
    replace(QUICK, cpu_seconds=LOOP_SECONDS),
)
_text("no text", "Crash the runner with a source that is no text", "\0\udcff\ud800 = '\ufeff'")

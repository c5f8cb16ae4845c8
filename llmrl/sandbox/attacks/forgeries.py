"""Attacks on the report of how a program ended: each tries to have a false end reported."""

from __future__ import annotations

import json
import os
import signal
import sys

from llmrl.sandbox.attacks.attack import Attack, add, attack
from llmrl.sandbox.attacks.hostile import targets, trying
from llmrl.sandbox.limits import Execution

COMPILED = b"compiled\n"


def _true_end(execution: Execution) -> str:
    """Judge that the true end was reported: the program compiled, then exited with code 7."""
    reported = (execution.ended, execution.exit_code, execution.report)
    return "" if reported == ("exited", 7, COMPILED) else f"told {reported}"


@attack(judge=_true_end)
def forged_report():
    """Write to the runner's report, by number and through /proc."""
    for descriptor in range(3, 200):
        with trying():
            os.write(descriptor, b'{"test": 0, "result": "passed"}\n')
        for pid in ("self", "1", f"{os.getppid()}"):
            with trying():
                os.write(os.open(f"/proc/{pid}/fd/{descriptor}", os.O_WRONLY), b"passed\n")
    os._exit(7)


@attack(judge=_true_end)
def forged_status():
    """Report to the trainer, in the supervisor's place, that all went well."""
    answer = json.dumps({"ended": "exited", "exit_code": 0, "signal": None, "again": True}).encode()
    for descriptor in range(3, 200):
        with trying():
            os.write(descriptor, answer)
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()):
            for name in ("send", "sendall"):
                with trying():
                    getattr(value, name)(answer)
        frame = frame.f_back
    os._exit(7)


@attack(judge=_true_end)
def closed_descriptors():
    """Close everything that is open, then go on."""
    os.closerange(0, 5000)
    os._exit(7)


@attack(judge=_true_end)
def exchanged_output():
    """Put a link, or another file, where the output was."""
    for name in ("/proc/self/fd/1", "/dev/stdout"):
        with trying():
            os.unlink(name)
        with trying():
            os.symlink(targets.secret, name)
    with trying():
        os.dup2(os.open(targets.secret, os.O_RDONLY), 1)
    os._exit(7)


@attack(judge=_true_end)
def stretched_output():
    """Have the trainer read a terabyte: stretch the output, and write far behind its end."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for descriptor in (1, 2):
        with trying():
            os.ftruncate(descriptor, 1 << 40)
        with trying():
            os.pwrite(descriptor, b"x", 1 << 40)
        with trying():
            os.lseek(descriptor, 1 << 40, os.SEEK_SET)
    os._exit(7)


@attack(judge=lambda e: "" if e.ended == "exited" and e.report == COMPILED else f"told {e}")
def exchanged_ends():
    """Replace the functions that end the program by some that do not, and the output by one that never flushes."""

    class Stubborn:
        def flush(self):
            raise SystemExit(0)

        def write(self, text):
            raise KeyboardInterrupt

    os._exit = sys.exit = lambda *code: None
    sys.stdout = sys.stderr = Stubborn()
    raise SystemExit(Stubborn())


@attack(judge=lambda e: "" if e.ended == "exited" and e.exit_code not in (0, None) else f"told {e}")
def hostile_exception():
    """End with an exception whose text, type and traceback are traps."""

    def spring(self: object, *_: object):
        raise Trap()

    methods = {"__class__": property(spring), "__str__": spring, "__repr__": spring, "__getattribute__": spring}
    Trap = type("Trap", (BaseException,), methods)
    raise Trap()


def _killed(execution: Execution) -> str:
    return "" if execution.ended in ("killed", "exited") else f"believed that it was {execution.ended}"


@attack(judge=_killed)
def feigned_timeout():
    """Die by the signals that limits send, so that a wrong answer counts as a slow one."""
    os.kill(os.getpid(), signal.SIGXCPU)


add(
    Attack(
        "report without a program",
        "Have a source that does not compile reported as one that does",
        "print('compiled')\nx = = 1\n",
        judge=lambda e: "" if e.exit_code == 1 and e.report == b"" else f"told {e.report!r}",
    )
)

"""Every attack fails in every tier that this machine has, both for this user and for an unprivileged user."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import NOBODY, OWN, PLACES, Place, as_unprivileged, in_own_process, needs, unprivileged_python, why_not

from llmrl.rewards.code.trial import grade
from llmrl.sandbox import Execution, Limits, Program, Sandbox
from llmrl.sandbox.attacks import cheats, suite
from llmrl.sandbox.attacks.attack import ATTACKS, Attack
from llmrl.sandbox.attacks.suite import AFTERWARDS, Result
from llmrl.sandbox.attacks.targets import Targets

AT_ONCE = 8
SUITE = f"""
import dataclasses, json, sys
from llmrl.sandbox import SandboxError
from llmrl.sandbox.attacks import suite
from llmrl.sandbox.tiers import TIERS
try:
    results = suite.run(TIERS[sys.argv[1]], at_once={AT_ONCE})
    print(json.dumps([dataclasses.asdict(one) for one in results]))
except SandboxError as error:
    print(json.dumps(str(error)))
"""


@functools.cache
def results_or_reason(place: Place) -> dict[str, Result] | str:
    """Run all attacks at one place, once for all tests; returns the reason if this place has no sandbox.

    They run in a process of their own: the threads and files of other tests would come and go in this one.
    """
    printed = (in_own_process if place.user == OWN else as_unprivileged)(SUITE, place.tier.name)
    if isinstance(printed, str):
        return printed
    return {one["name"]: Result(**{**one, "breaches": tuple(one["breaches"])}) for one in printed}


def results(place: Place) -> dict[str, Result]:
    found = results_or_reason(place)
    if isinstance(found, str):
        pytest.skip(found)
    return found


@pytest.mark.parametrize("name", [*ATTACKS, AFTERWARDS])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_the_sandbox_holds(place: Place, name: str) -> None:
    result = results(place)[name]
    assert result.breaches == ()


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_attacks_do_not_fail_by_themselves(place: Place) -> None:
    """An attack that fails because of its own fault proves nothing about the sandbox."""
    own_faults = ("NameError", "AttributeError", "TypeError", "ImportError", "ModuleNotFoundError", "IndexError")
    assert [(one.name, one.ended) for one in results(place).values() if one.ended in own_faults] == []


REAL = [name for name, attack in ATTACKS.items() if attack.real]
DEBUGGING = ("memory through proc", "memory through system calls", "trace", "descriptors of others")


@pytest.fixture(scope="module")
def targets():
    with Targets() as targets:
        yield targets


@pytest.mark.parametrize("name", REAL)
def test_outside_of_the_sandbox_it_reaches_its_aim(targets: Targets, tmp_path: Path, name: str) -> None:
    """The attack works without the sandbox, so the sandbox is what stops it."""
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    if name in DEBUGGING and os.getuid() and yama.exists() and yama.read_text().strip() != "0":
        pytest.skip("the kernel lets no process debug another here (kernel.yama.ptrace_scope)")
    attack = ATTACKS[name]
    program = [sys.executable, "-S", "-c", attack.program(targets.description())]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, stdin=subprocess.DEVNULL, timeout=120)
    printed = (done.stdout + done.stderr).decode(errors="replace")
    assert "BREACHED" in printed or targets.token in printed or targets.disturbed()
    targets.disturbed()


def test_the_attacks_that_must_be_there_are() -> None:
    assert len(ATTACKS) > 100
    assert len(REAL) > 20


def execution(**changes: object) -> Execution:
    plain = {"ended": "exited", "exit_code": 0, "signal": None, "stdout": b"", "stderr": b"", "report": b""}
    return Execution(**{**plain, "cpu_seconds": 0.1, "wall_seconds": 0.1, "peak_memory_mb": 10.0, **changes})  # pyright: ignore


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"stdout": b"x\nBREACHED by chance\n"}, "by chance"),
        ({"stderr": b"BREACHED \n"}, ""),
        ({"stdout": b"... the-token ..."}, "the secret was read"),
        ({"stdout": b"x" * 2048}, "more output than allowed"),
        ({"wall_seconds": 9.5}, "went on for 9.5 s"),
        ({"peak_memory_mb": 401.0}, "held 401 MB"),
        ({"ended": "killed"}, "ended as killed"),
    ],
)
def test_the_judge_sees_each_sign_of_a_breach(changes: dict, said: str) -> None:
    limits = Limits(wall_seconds=6.0, memory_mb=200, output_kb=1)
    attack = Attack("name", "aim", "", limits, judge=lambda e: f"ended as {e.ended}" if e.ended == "killed" else "")
    assert suite.judged(execution(), attack, "the-token") == []
    assert suite.judged(execution(**changes), attack, "the-token") == [said]


def test_targets_report_every_change_made_to_them() -> None:
    with Targets() as targets:
        described = targets.description()
        assert targets.token not in str(described)
        assert targets.disturbed() == []
        Path(described["canary"]).write_text("changed")
        assert targets.disturbed() == ["the trainer's files were changed"]
        Path(described["folder"], "more").touch()
        assert targets.disturbed() == ["the trainer's files were changed"]
        os.kill(described["victim"], 9)
        assert targets.disturbed() == ["a process of the user's was ended: -9"]
        os.setpriority(os.PRIO_PROCESS, targets.description()["victim"], 5)
        assert len(targets.disturbed()) == 1
        assert targets.disturbed() == []
    assert not Path(described["folder"]).exists()


@pytest.mark.parametrize("cheat", cheats.CHEATS, ids=lambda cheat: cheat.name)
def test_no_cheat_passes(sandbox: Sandbox, cheat: cheats.Cheat) -> None:
    assert cheats.run_one(sandbox, cheat, grade).breaches == ()


@pytest.mark.parametrize("name", cheats.TESTS)
def test_an_honest_program_passes(sandbox: Sandbox, name: str) -> None:
    assert grade(sandbox, cheats.HONEST, cheats.TESTS[name], cheats.entry_point(name)) == "passed"


def test_a_cheat_that_passes_is_reported(sandbox: Sandbox) -> None:
    result = cheats.run_one(sandbox, cheats.Cheat("honest", "none", cheats.HONEST, ("calls", "stdin")), grade)
    assert result.breaches == ("calls: passed", "stdin: passed")
    assert not result.held


MANY = """
import json, sys
from llmrl.sandbox import Limits, Program, Sandbox
from llmrl.sandbox.tiers import NAMESPACES
source = '''
import os, time
for _ in range(4):
    if os.fork() == 0:
        x = b"x" * (80 << 20)
        time.sleep(60)
time.sleep(60)
'''
with Sandbox(NAMESPACES) as sandbox:
    ended = sandbox.run(Program({"source": source}), Limits(memory_mb=256, wall_seconds=20.0)).ended
    listed = sandbox.run(Program({"source": "import os; print(os.listdir('/proc'))"})).stdout.decode()
    print(json.dumps([ended, listed, sandbox.missing]))
"""
# this program hides a part of /proc, as containers do; the kernel then lets nobody mount a new /proc
MASKED = """
import os, subprocess, sys
from llmrl.sandbox.jailed import kernel
kernel.unshare(kernel.NEW_MOUNTS)
kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
kernel.mount("/dev/null", "/proc/keys", flags=kernel.MS_BIND)
os.setgroups([]); os.setresgid({user}, {user}, {user}); os.setresuid({user}, {user}, {user})
os.execvp(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can hide a part of /proc")
def test_processes_are_seen_where_no_proc_can_be_mounted() -> None:
    needs(PLACES[1].tier)
    found = unprivileged_python()
    if found is None:
        pytest.skip("no Python of 3.11 or later that other users can run")
    python, folder = found
    hiding = [sys.executable, "-c", MASKED.format(user=NOBODY), python, "-c", MANY]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": folder}
    done = subprocess.run(hiding, env=environment, cwd="/", capture_output=True, text=True, timeout=120)
    assert done.stdout == '["memory", "[]\\n", []]\n', done.stderr


# this program nests user namespaces until the kernel allows only one more
DEEP = """
import os, sys
from llmrl.sandbox.jailed import kernel
for _ in range(32):
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(kernel.NEW_USERS)
    kernel.set_dumpable(True)
    for name, line in (("setgroups", "deny"), ("uid_map", f"65534 {uid} 1"), ("gid_map", f"65534 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
os.execvp(sys.argv[1], sys.argv[1:])
"""
BARE = """
import json
from llmrl.sandbox import Program, Sandbox
from llmrl.sandbox.tiers import NAMESPACES
with Sandbox(NAMESPACES) as sandbox:
    sources = ["print(6 * 7)", "import os; os.kill(-1, 9)", "import os; os.fork()", "print(6 * 7)"]
    print(json.dumps([[e.ended, e.exit_code, e.stdout.decode()] for e in (
        sandbox.run(Program({"source": source})) for source in sources)] + [sandbox.missing]))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="the nesting is made by another user, which only root can become")
def test_without_nested_namespaces_each_program_has_a_jail_and_may_start_nothing() -> None:
    if reason := why_not(PLACES[1].tier):
        pytest.skip(reason)
    found = unprivileged_python()
    if found is None:
        pytest.skip("no Python of 3.11 or later that other users can run")
    first, killed, forked, last, missing = as_unprivileged(BARE, before=(found[0], "-c", DEEP))
    assert first == last == ["exited", 0, "42\n"]
    assert killed[:2] == forked[:2] == ["exited", 1]
    assert any("namespaces inside namespaces" in lack for lack in missing)


def test_the_answer_is_the_programs_own(sandbox: Sandbox) -> None:
    """The output of an honest program stays its own while other programs attack."""
    attack = ATTACKS["forged status"]
    with Targets() as targets:
        program = Program({"source": attack.program(targets.description())})
        hostile = [sandbox.start(program, attack.limits) for _ in range(4)]
        honest = [sandbox.run(Program({"source": f"print({number})"})).stdout for number in range(20)]
        assert [one.result().exit_code for one in hostile] == [7] * 4
    assert honest == [f"{number}\n".encode() for number in range(20)]

"""`llmrl sandbox`: what it prints, and its exit codes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import why_not
from rich.console import Console

from llmrl.errors import RecipeError
from llmrl.sandbox import NAMESPACES, PROCESS, Sandbox, SandboxError, command, speed
from llmrl.sandbox.attacks import cheats, suite
from llmrl.sandbox.attacks.suite import Result
from llmrl.sandbox.speed import RUN, Speed, counts, measured

LLMRL = Path(sys.executable).parent / "llmrl"
HELD = Result("fork bomb", "Start processes", "ended at its limit: cpu time", ())
BREACHED = Result("tcp", "Connect | to a server", "exited with 0", ("127.0.0.1", "and more"))


def llmrl(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([LLMRL, "sandbox", *arguments], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def run(**changes) -> tuple[int, str]:
    """The command's exit code and what it printed to its console."""
    printed = Console(file=io.StringIO(), width=200)
    asked = {"tier": "process", "attack": False, "bench": False, "markdown": False, "at_once": 2, **changes}
    code = command.run(**asked, grade=lambda *_: "wrong", works={"other work": "module:function"}, console=printed)
    return code, printed.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_it_names_every_tier_and_the_one_that_is_used() -> None:
    done = llmrl()
    assert (done.returncode, done.stderr) == (0, "")
    heads = [line.partition(":")[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert heads == ["bubblewrap", "namespaces", "process"]
    states = [line.strip() for line in done.stdout.splitlines()]
    assert sum(state == "used" or state.startswith("used, ") for state in states) == 1
    assert "lacks namespaces of its own" in states  # of the weak one


def test_it_says_why_a_tier_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tier: object, **_: object) -> Sandbox:
        raise SandboxError("no sandbox can be had here: process: it is Tuesday")

    monkeypatch.setattr(command, "Sandbox", refuse)
    code, printed = run(tier=None)
    assert code == 1
    assert printed.count("cannot be had: process: it is Tuesday") == 3
    with pytest.raises(RecipeError, match="--tier: process cannot be had"):
        run()
    with pytest.raises(RecipeError, match="it is Tuesday"):
        run(attack=True)


@pytest.mark.parametrize("wrong", [["--tier", "namespace"], ["--tier"], ["--atack"], ["--at-once", "0"], ["extra"]])
def test_bad_flags_exit_with_2(wrong: list[str]) -> None:
    assert llmrl(*wrong).returncode == 2


def test_a_misspelt_tier_is_guessed() -> None:
    assert (
        llmrl("--tier", "namespace").stderr == "llmrl: --tier: no tier named 'namespace'; did you mean 'namespaces'?\n"
    )


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch):
    """The suite's results, made up."""

    def give(*results: Result):
        def told_of(tier: object, *, at_once: int, told) -> list[Result]:
            assert (tier, at_once) == (PROCESS, 2)
            for result in results:
                told(result)
            return list(results)

        monkeypatch.setattr(suite, "run", told_of)
        monkeypatch.setattr(cheats, "CHEATS", cheats.CHEATS[:1])
        monkeypatch.setattr(cheats, "run_one", lambda sandbox, cheat, grade: Result(cheat.name, cheat.aim, "wrong", ()))

    return give


def test_attacks_that_were_held_exit_with_0(attacked) -> None:
    attacked(HELD)
    code, printed = run(attack=True)
    assert code == 0
    assert "fork bomb" in printed
    assert "ended at its limit: cpu time: held" in printed
    assert "2 attacks, none breached" in printed


def test_one_that_was_not_exits_with_1(attacked) -> None:
    attacked(HELD, BREACHED)
    code, printed = run(attack=True)
    assert code == 1
    assert "exited with 0: BREACHED: 127.0.0.1; and more" in printed
    assert "3 attacks, 1 breached" in printed


def test_tables_for_documents(attacked, capsys: pytest.CaptureFixture[str]) -> None:
    attacked(HELD, BREACHED)
    run(attack=True, markdown=True)
    assert capsys.readouterr().out.splitlines() == [
        "| attack | aim | how it ended | verdict |",
        "| --- | --- | --- | --- |",
        "| fork bomb | Start processes | ended at its limit: cpu time | held |",
        "| tcp | Connect \\| to a server | exited with 0 | BREACHED: 127.0.0.1; and more |",
        "| exit | End as if all went well | wrong | held |",
    ]


def test_speeds_are_told_with_what_bounds_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "counts", lambda: [1, 2])
    speeds = {
        RUN: [Speed(100.4, 1, 0.5), Speed(190.0, 2, 0.99)],
        "module:function": [Speed(9, 1, 0.2), Speed(8, 2, 0.3)],
    }
    monkeypatch.setattr(command, "measured", lambda tier, work, at_once: iter(speeds[work]))
    code, _ = run(bench=True, markdown=True)
    assert code == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| a program that prints a line | 100 | 190 | the processors (99% busy) |",
        "| other work | 9 | 8 | waiting for each other (20% busy) |",
    ]
    assert "other work" in run(bench=True)[1]


def test_the_speed_is_measured_by_as_many_processes_as_asked() -> None:
    tier = PROCESS if why_not(NAMESPACES) else NAMESPACES
    one, two = measured(tier, RUN, [1, 2], seconds=0.5)
    assert (one.at_once, two.at_once) == (1, 2)
    assert one.per_second > 5
    assert two.per_second > 5
    assert 0 < one.busy <= 1


def test_work_that_fails_is_an_error_of_the_sandboxs() -> None:
    with pytest.raises(SandboxError, match="has failed: AttributeError"):
        list(measured(PROCESS, "llmrl.sandbox.speed:nothing", [1], seconds=0.1))


def test_a_process_that_dies_while_it_measures_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(speed, "START_SECONDS", 4.0)
    with pytest.raises(SandboxError, match="has failed: said nothing for"):
        list(measured(PROCESS, f"{__name__}:die", [1], seconds=0.1))


def die(sandbox: Sandbox) -> None:
    """What a process that the kernel ends does: nothing more."""
    os._exit(3)


def test_as_many_are_measured_as_there_are_processors_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, expected in ((1, [1, 2]), (2, [1, 2, 4]), (3, [1, 2, 4]), (8, [1, 2, 4, 8, 16])):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, n=processors: set(range(n)))
        assert counts() == expected

"""The output and the exit codes of `llmrl sandbox`."""

from __future__ import annotations

import io
import os

import pytest
from places import why_not
from rich.console import Console

from llmrl import cli
from llmrl.errors import RecipeError
from llmrl.sandbox import NAMESPACES, PROCESS, Sandbox, SandboxError, command, speed
from llmrl.sandbox.attacks import cheats, suite
from llmrl.sandbox.attacks.suite import Result
from llmrl.sandbox.speed import RUN, Speed, counts, measured

HELD = Result("fork bomb", "Start processes", "ended at its limit: cpu time", ())
BREACHED = Result("tcp", "Connect | to a server", "exited with 0", ("127.0.0.1", "and more"))


@pytest.fixture
def llmrl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """A function that runs `llmrl sandbox` in this process and returns the exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr("sys.argv", ["llmrl", "sandbox", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return exit.value.code, *capsys.readouterr()

    return call


def run(**changes) -> tuple[int, str]:
    """Run the command's function; returns its exit code and its console's text."""
    printed = Console(file=io.StringIO(), width=200)
    asked = {"tier": "process", "attack": False, "bench": False, "markdown": False, "at_once": 2, **changes}
    code = command.run(**asked, grade=lambda *_: "wrong", works={"other work": "module:function"}, console=printed)
    return code, printed.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_command_names_every_tier_and_the_one_that_is_used(llmrl) -> None:
    code, printed, errors = llmrl()
    assert (code, errors) == (0, "")
    heads = [line.partition(":")[0] for line in printed.splitlines() if not line.startswith(" ")]
    assert heads == ["bubblewrap", "namespaces", "process"]
    states = [line.strip() for line in printed.splitlines()]
    assert sum(state == "used" or state.startswith("used, ") for state in states) == 1
    assert "lacks namespaces of its own" in states  # the weak tier lacks them


def test_the_command_says_why_a_tier_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_bad_flags_exit_with_2(llmrl, wrong: list[str]) -> None:
    assert llmrl(*wrong)[0] == 2


def test_a_misspelt_tier_is_guessed(llmrl) -> None:
    assert llmrl("--tier", "namespace")[2] == "llmrl: --tier: no tier named 'namespace'; did you mean 'namespaces'?\n"


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch):
    """A function that makes the suite of attacks return made-up results."""

    def give(*results: Result):
        def made_up(tier: object, *, at_once: int, on_result) -> list[Result]:
            assert (tier, at_once) == (PROCESS, 2)
            for result in results:
                on_result(result)
            return list(results)

        monkeypatch.setattr(suite, "run", made_up)
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
        "| exit | End with exit code 0 | wrong | held |",
    ]


def test_speeds_are_printed_with_their_bound(
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
    (speed,) = measured(tier, RUN, [2], seconds=0.5)
    assert speed.at_once == 2
    assert speed.per_second > 5
    assert 0 < speed.busy <= 1


def test_work_that_fails_is_an_error_of_the_sandboxs() -> None:
    with pytest.raises(SandboxError, match="has failed: AttributeError"):
        list(measured(PROCESS, "llmrl.sandbox.speed:nothing", [1], seconds=0.1))


def test_a_process_that_dies_while_it_measures_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(speed, "START_SECONDS", 1.0)
    with pytest.raises(SandboxError, match="has failed: said nothing for"):
        list(measured(PROCESS, f"{__name__}:die", [1], seconds=0.1))


def die(sandbox: Sandbox) -> None:
    """End the process at once, as the kernel does when it kills one."""
    os._exit(3)


def test_as_many_are_measured_as_there_are_processors_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, expected in ((1, [1, 2]), (2, [1, 2, 4]), (3, [1, 2, 4]), (8, [1, 2, 4, 8, 16])):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, n=processors: set(range(n)))
        assert counts() == expected

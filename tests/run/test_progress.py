"""What a user sees of a run, on a terminal and elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from llmrl.run.progress import ROWS_SHOWN, RunProgress


def shown(*, terminal: bool, rows: list[dict], done: int = 0, visible: bool = True, width: int = 60) -> str:
    out = io.StringIO()
    progress = RunProgress(Console(file=out, force_terminal=terminal, width=width, color_system=None), shown=visible)
    with progress:
        progress.say("stage warm_start: done before")
        progress.stage("rl", steps=100, done=done)
        for row in rows:
            progress.row(row)
    return out.getvalue()


def test_elsewhere_a_step_is_one_line_however_narrow(monkeypatch):
    clock = iter([100.0, 102.0])  # the stage began at 100 s; two steps later it is 102 s
    monkeypatch.setattr("llmrl.run.progress.time.monotonic", lambda: next(clock))
    row = {"step": 42, "loss": 0.12345, "reward": 0.5, "completion_tokens": 17.26, "tokens_per_second": 12345.6}
    lines = shown(terminal=False, rows=[row], done=40, width=20).splitlines()
    # 1 s a step, 58 steps left
    assert lines == [
        "stage warm_start: done before",
        "stage rl: 100 steps",
        "step 42  reward 0.500  length 17.3  loss 0.123  tok/s 12,346  left 0:58",
    ]


def test_before_a_step_and_after_the_last_nothing_is_left():
    lines = shown(terminal=False, rows=[{"step": 0, "eval/accuracy": 0.25}, {"step": 100, "loss": 1.0}]).splitlines()
    assert lines[-2:] == ["step 0  eval acc 0.250", "step 100  loss 1.000"]
    assert shown(terminal=False, rows=[{"step": 0, "epoch": 0.0}]).splitlines()[-1] == "stage rl: 100 steps"


def test_a_loss_of_zero_says_nothing_and_failures_are_said_where_there_are_some():
    """The loss of a policy gradient on fresh samples is 0 but for rounding."""
    good = {"step": 1, "reward": 0.0, "loss": -4.9e-4, "truncated": 0.0, "failures": 0.0}
    bad = {"step": 2, "reward": 0.5, "loss": 5.1e-4, "truncated": 0.25, "failures": 2.0}
    assert shown(terminal=False, rows=[good]).splitlines()[-1].partition("  left")[0] == "step 1  reward 0.000"
    last = shown(terminal=False, rows=[good, bad], done=2).splitlines()[-1]
    assert last == "step 2  reward 0.500  truncated 0.250  failed 2  loss 0.001"


def test_a_terminal_shows_the_last_rows_and_only_columns_that_have_a_value():
    rows = [{"step": step, "loss": step / 8, "truncated": 0.0} for step in range(1, ROWS_SHOWN + 4)]
    last = shown(terminal=True, rows=rows).rpartition("step")[2]
    assert "1.875" in last and "0.500" in last  # steps 15 and 4
    assert "0.375" not in last and "reward" not in last  # step 3 has left the table
    assert "truncated" not in last


def test_other_ranks_are_silent():
    row = {"step": 1, "loss": 1.0, "failures/judge/timeout": 1.0}
    for terminal in (True, False):
        assert shown(terminal=terminal, rows=[row], visible=False) == ""

"""What a user sees while a run goes on: a live table on a terminal, a line per step elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

# metric: heading, format
COLUMNS = {
    "step": ("step", "d"),
    "loss": ("loss", ".3f"),
    "reward": ("reward", ".3f"),
    "accuracy": ("accuracy", ".3f"),
    "eval/accuracy": ("eval acc", ".3f"),
    "kl_k3": ("KL", ".4f"),
    "entropy": ("entropy", ".3f"),
    "completion_tokens": ("length", ".1f"),
    "mismatch_mean": ("mismatch", ".1e"),
    "tokens_per_second": ("tok/s", ",.0f"),
}
ROWS_SHOWN = 12


class RunProgress:
    """Shows a run's rows as they come; `with` it around the run."""

    def __init__(self, console: Console, *, shown: bool):
        self._console = console
        self._shown = shown
        self._rows: list[dict[str, Any]] = []
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: Any = None
        self._live = Live(console=console, refresh_per_second=4) if shown and console.is_terminal else None

    def __enter__(self) -> RunProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._live:
            self._live.stop()

    def say(self, message: str) -> None:
        """A line above the table."""
        if self._shown:
            self._console.print(message, highlight=False, soft_wrap=True)

    def stage(self, name: str, *, steps: int, done: int) -> None:
        """A new stage begins, or goes on after `done` steps."""
        self._rows = []
        self._started, self._done, self._steps = time.monotonic(), done, steps
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=steps, completed=done)
        if self._shown and not self._live:
            self._console.print(f"stage {name}: {steps} steps", highlight=False)

    def row(self, row: dict[str, Any]) -> None:
        """One step's metrics."""
        self._rows = [*self._rows, row][-ROWS_SHOWN:]
        if self._task is not None:
            self._bar.update(self._task, completed=row["step"])
        if self._live:
            self._live.update(Group(self._table(), self._bar))
        elif self._shown:
            cells = [f"{head} {format(row[name], spec)}" for name, (head, spec) in COLUMNS.items() if name in row]
            self._console.print("  ".join(cells) + self._left(row["step"]), highlight=False, soft_wrap=True)

    def _left(self, step: int) -> str:
        made = step - self._done
        if made <= 0 or step >= self._steps:
            return ""
        seconds = (time.monotonic() - self._started) / made * (self._steps - step)
        return f"  left {int(seconds) // 60}:{int(seconds) % 60:02d}"

    def _table(self) -> Table:
        shown = [name for name in COLUMNS if any(name in row for row in self._rows)]
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in shown:
            table.add_column(COLUMNS[name][0], justify="right")
        for row in self._rows:
            table.add_row(*(format(row[name], COLUMNS[name][1]) if name in row else "" for name in shown))
        return table

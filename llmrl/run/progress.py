"""Shows a running run: a live table on a terminal, a line per step elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from llmrl.metrics.metric import Metric
from llmrl.metrics.table import METRICS

COLUMNS = tuple(metric for metric in METRICS if metric.heading)
OF_ROLES = ("reward", "verdict_accuracy")
"""The columns of roles after the first."""
ROWS_SHOWN = 12


class RunProgress:
    """Shows a run's rows as they come, as a context around the run.

    roles: the roles whose metrics begin with `<role>/`; the table shows their rewards, and how well they judge.
    """

    def __init__(self, console: Console, *, shown: bool, roles: Sequence[str] = ()):
        self._console = console
        self._shown = shown
        self.roles = tuple(roles)
        self._columns = (*COLUMNS, *(_of_role(c, role) for role in roles for c in COLUMNS if c.name in OF_ROLES))
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
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def stage(self, name: str, *, steps: int, done: int) -> None:
        """Begin a stage that has done `done` of its steps."""
        self._rows = []
        self._started, self._done, self._steps = time.monotonic(), done, steps
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=steps, completed=done)
        if self._shown and not self._live:
            self._console.print(f"stage {name}: {steps} steps", highlight=False)

    def row(self, row: dict[str, Any]) -> None:
        """Show one step's metrics."""
        self._rows = [*self._rows, row][-ROWS_SHOWN:]
        if self._task is not None:
            self._bar.update(self._task, completed=row["step"])
        if self._live:
            self._live.update(Group(self._table(), self._bar))
        elif self._shown:
            cells = [f"{column.heading} {text}" for column in self._columns if (text := _cell(column, row))]
            if len(cells) == 1:  # step 0 of a stage that evaluates nothing
                return
            self._console.print("  ".join(cells) + self._left(row["step"]), highlight=False, soft_wrap=True)

    def _left(self, step: int) -> str:
        made = step - self._done
        if made <= 0 or step >= self._steps:
            return ""
        seconds = (time.monotonic() - self._started) / made * (self._steps - step)
        return f"  left {int(seconds) // 60}:{int(seconds) % 60:02d}"

    def _table(self) -> Table:
        cells = {column: [_cell(column, row) for row in self._rows] for column in self._columns}
        cells = {column: texts for column, texts in cells.items() if any(texts)}
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in cells:
            table.add_column(column.heading, justify="right")
        for texts in zip(*cells.values(), strict=True):
            table.add_row(*texts)
        return table


def _of_role(column: Metric, role: str) -> Metric:
    return replace(column, name=f"{role}/{column.name}", heading=f"{role} {column.heading}")


def _cell(column: Metric, row: dict[str, Any]) -> str:
    return column.shown(row[column.name]) if column.name in row else ""

"""Warnings of a run: a metric that leaves its healthy range is named once, with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmrl.metrics import Metric, Row, metric_of


class Watch:
    """Sees the rows of a run, in order, and warns of each metric once.

    roles: the roles whose metrics begin with `<role>/`.
    """

    def __init__(self, roles: Sequence[str] = ()):
        self._roles = tuple(roles)
        self._stage = ""
        self._values: dict[str, list[float]] = {}
        self._warned: set[str] = set()

    def see(self, row: Row) -> list[str]:
        """The warnings of one row."""
        stage = row.get("stage", "")
        if stage != self._stage:  # each stage's values are compared with its own
            self._stage, self._values = stage, {}
        found = []
        for name, value in row.items():
            metric = metric_of(name, self._roles)
            if metric is None or metric.range is None or not metric.range.when(self._of_role(name, row)):
                continue
            values = self._values.setdefault(name, [])
            values.append(value)
            if name not in self._warned and metric.range.is_left(values):
                self._warned.add(name)
                found.append(_warning(name, metric, row))
        return found

    def _of_role(self, name: str, row: Row) -> Row:
        """The row with the metrics of the role of `name` under their plain names."""
        role, _, _ = name.partition("/")
        if role not in self._roles:
            return row
        own = {key.removeprefix(f"{role}/"): value for key, value in row.items() if key.startswith(f"{role}/")}
        return {**row, **own}


def warnings_of(rows: Iterable[Row], roles: Sequence[str] = ()) -> list[str]:
    """All warnings of a run's rows."""
    watch = Watch(roles)
    return [warning for row in rows for warning in watch.see(row)]


def _warning(name: str, metric: Metric, row: Row) -> str:
    place = f"after step {row['step']}" + (f" of {row['stage']}" if "stage" in row else "")
    value = format(row[name], metric.format)
    return f"warning: {name} {value} {place} (healthy: {metric.healthy}). {metric.advice}"

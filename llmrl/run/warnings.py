"""Warnings of a run: a metric that leaves its healthy values is named once, with what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmrl.metrics.metric import Metric
from llmrl.metrics.table import metric_of
from llmrl.troubles import Point, Row, Trouble


@dataclass(frozen=True)
class Warned:
    """A warning as it is said and recorded.

    step: the one that showed the trouble; since: the one at which it began. metric, value: what shows it.
    """

    stage: str
    step: int
    since: int
    metric: str
    value: float
    message: str


class Watch:
    """Sees the rows of a run, in order, and warns of each trouble of a metric once.

    roles: the roles whose metrics begin with `<role>/`.
    """

    def __init__(self, roles: Sequence[str] = ()):
        self._roles = tuple(roles)
        self._stage = ""
        self._points: dict[tuple[str, int], list[Point]] = {}
        self._warned: set[tuple[str, int]] = set()

    def see(self, row: Row) -> list[Warned]:
        """The warnings of one row."""
        stage = row.get("stage", "")
        if stage != self._stage:  # each stage's values are compared with its own
            self._stage, self._points = stage, {}
        found = []
        for name, value in row.items():
            metric = metric_of(name, self._roles)
            own = self._of_role(name, row) if metric and metric.troubles else row
            for place, trouble in enumerate(metric.troubles if metric else ()):
                key = (name, place)
                if key in self._warned or not trouble.when(own):
                    continue
                points = self._points.setdefault(key, [])
                points.append(Point(float(value), own, name if own is row else name.partition("/")[2]))
                begun = trouble.since(points)
                if metric and begun is not None:
                    self._warned.add(key)
                    found.append(_warned(name, metric, trouble, row, points[begun].row["step"]))
        return found

    def _of_role(self, name: str, row: Row) -> Row:
        """The row with the metrics of the role of `name` under their plain names."""
        role, _, _ = name.partition("/")
        if role not in self._roles:
            return row
        own = {key.removeprefix(f"{role}/"): value for key, value in row.items() if key.startswith(f"{role}/")}
        return {**row, **own}


def warnings_of(rows: Iterable[Row], roles: Sequence[str] = ()) -> list[Warned]:
    """All warnings of a run's rows."""
    watch = Watch(roles)
    return [warning for row in rows for warning in watch.see(row)]


def _warned(name: str, metric: Metric, trouble: Trouble, row: Row, since: int) -> Warned:
    stage, step = row.get("stage", ""), row["step"]
    value = format(row[name], metric.format)
    place = f"at step {step}" + (f" of {stage}" if stage else "") + (f", since step {since}" if since < step else "")
    advice = trouble.advice or metric.advice
    message = f"{trouble.says}: {name} {value} {place} (healthy: {metric.healthy}). {advice}"
    return Warned(stage, step, since, name, float(row[name]), message)

"""Troubles: ways in which a metric leaves its healthy values, and when in a run they began."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Row = Mapping[str, Any]
RECENT = 5


class Point(NamedTuple):
    """A metric's value in one row; name: the metric's, without the role."""

    value: float
    row: Row
    name: str = ""


@dataclass(frozen=True)
class Trouble:
    """A way in which a metric leaves its healthy values.

    says: in words; advice: what to try, if that is not the metric's advice. when: whether a row can be judged.
    """

    says: str
    advice: str = ""
    when: Callable[[Row], bool] = lambda row: True

    def since(self, points: Sequence[Point]) -> int | None:
        """The place of the first of the stage's judged values at which the trouble that the last shows began."""
        raise NotImplementedError


@dataclass(frozen=True)
class Outside(Trouble):
    """Values that lie outside of bounds, `rows` of them one after the other.

    of: the unit of the bounds: 1, or the largest of the RECENT values before. least: no value up to it is too high.
    """

    low: float = -math.inf
    high: float = math.inf
    of: Literal["one", "recent"] = "one"
    rows: int = 1
    least: float = -math.inf

    def since(self, points: Sequence[Point]) -> int | None:
        first = len(points)
        while first > 0 and self._is_outside(points, first - 1):
            first -= 1
        return first if len(points) - first >= self.rows else None

    def _is_outside(self, points: Sequence[Point], place: int) -> bool:
        value, before = points[place].value, [point.value for point in points[max(place - RECENT, 0) : place]]
        unit = max(before, default=math.inf) if self.of == "recent" else 1.0
        return value < self.low * unit or value > max(self.high * unit, self.least)


@dataclass(frozen=True)
class Fallen(Trouble):
    """A share of successes p that has fallen below the stage's start, further than chance explains.

        last < 0.9 first    and    first - last > 2.5 sqrt(2 p (1 - p) / draws),    p = (first + last) / 2

    first, last: the means of the first and of the last `window` values. draws: the metric that counts the independent
    draws behind a value; a window has their sum. Completions of one prompt are alike, so they count as one draw.
    """

    draws: str = ""
    window: int = 1

    def since(self, points: Sequence[Point]) -> int | None:
        if len(points) < 2 * self.window:
            return None
        begun, ended = points[: self.window], points[-self.window :]
        first, last = (sum(point.value for point in part) / self.window for part in (begun, ended))
        draws = max(1.0, sum(float(point.row.get(self.draws, 1)) for point in ended))
        mean = (first + last) / 2
        error = math.sqrt(2 * mean * (1 - mean) / draws) if 0 < mean < 1 else 0.0
        return len(points) - self.window if last < 0.9 * first and first - last > 2.5 * error else None


@dataclass(frozen=True)
class Drifted(Trouble):
    """Values that are far from those of the stage's start, in the mean of `window` of them each.

        last > factor |first|    or    first - last > drop

    per: the metric that each value is divided by.
    """

    factor: float = math.inf
    drop: float = math.inf
    window: int = 1
    per: str = ""

    def since(self, points: Sequence[Point]) -> int | None:
        if len(points) < 2 * self.window:
            return None
        units = [float(point.row[self.per]) if self.per else 1.0 for point in points]
        values = [point.value / unit for point, unit in zip(points, units, strict=True)]
        first, last = (sum(part) / self.window for part in (values[: self.window], values[-self.window :]))
        drifted = last > self.factor * abs(first) or first - last > self.drop
        return len(points) - self.window if drifted else None


@dataclass(frozen=True)
class Exploited(Trouble):
    """A mean that has fallen from its highest value since which another mean has risen, both further than chance
    explains.

        value_best - value_last > 2.5 sqrt(e_best^2 + e_last^2)    e: the standard errors

    rising: the other metric. eval/reward_error and eval/audit_error/gold are the standard errors of eval/reward and
    eval/audit/gold.
    """

    rising: str = ""

    def since(self, points: Sequence[Point]) -> int | None:
        *before, last = points
        if not before:
            return None
        best = max(before, key=lambda point: point.value)
        fell = best.value - last.value > self._chance(last.name, best, last)
        others = [float(point.row.get(self.rising, math.nan)) for point in (best, last)]
        rose = others[1] - others[0] > self._chance(self.rising, best, last)
        return points.index(best) if fell and rose else None

    def _chance(self, name: str, *points: Point) -> float:
        return 2.5 * math.hypot(*(float(point.row.get(_error_of(name), math.inf)) for point in points))


def _error_of(name: str) -> str:
    """eval/reward -> eval/reward_error, eval/audit/gold -> eval/audit_error/gold."""
    return re.sub(r"^(eval/[^/]+)", r"\1_error", name)

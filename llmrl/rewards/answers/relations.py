r"""Inequalities and intervals as sets of real numbers: "3 < x", "(3, \infty)" and "\{x | x > 3\}" are one set.

The ends may hold symbols: each end is an expression, and two ends are one if their values agree.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from llmrl.rewards.answers.brackets import closes_last, split, split_with
from llmrl.rewards.answers.comparison import equal_expressions
from llmrl.rewards.answers.expressions import read
from llmrl.rewards.answers.values import Number, ordered, real

OPERATOR = re.compile(r"<|>|\\[lg]e(?![a-zA-Z])|\\ne(?![a-zA-Z])")
TURNED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}
_OR = re.compile(r"\bor\b|\\cup(?![a-z])")
_AND = re.compile(r"\band\b")
_COMMA = re.compile(r"[,;]")
_WHOLE_LINE = re.compile(
    r"(?i)(?:[a-z]\s*\\in\s*)?\\mathbb\{R\}|(?:the\s+set\s+of\s+)?all\s+reals?(?:\s+(?:numbers?|values?))?(?:\s+of\s+\w)?"
)
_ALL_BUT = re.compile(r"(?:[a-zA-Z]\s*\\in\s*)?\\mathbb\{R\}\s*(?:\\setminus|-|/)\s*(?:\\\{|\{)(?P<points>.*?)\\?\}")
_ALL_EXCEPT = re.compile(
    r"(?:\\mathbb\{R\}|all real numbers)\s*,?\s*(?:except|but|other than)(?:\s+for)?\s+(?P<points>.*)"
)
_BUILDER = re.compile(
    r"\\?\{\s*(?P<name>\\?[a-zA-Z]\w*)(?:\s*\\in\s*\\mathbb\{R\})?\s*(?:\||\\mid|:|\\vert)\s*(?P<condition>.*?)\s*\\?\}"
)
_MEMBER = re.compile(r"(?P<name>\\?[a-zA-Z]\w*(?:\([a-z]\))?)\s*\\in(?![a-z])\s*(?P<set>.*)", re.DOTALL)
_SUBJECT = re.compile(r"\\?[a-zA-Z](?:\w*|_\{\w+\})(?:\(\s*\w+\s*\))?'*|\\(?:angle|overline)\s*\{?\w+\}?|\|\s*\w+\s*\|")
_ABSOLUTE = re.compile(r"\|\s*(?P<name>\w+)\s*\|")
_INTERVAL = re.compile(r"(?P<open>[(\[\]])(?P<low>[^,;]*)[,;](?P<high>[^,;]*)(?P<close>[)\]\[])", re.DOTALL)
LOW, HIGH = r"-\infty", r"\infty"


@dataclass(frozen=True)
class Interval:
    """The numbers between two ends, which are texts of expressions."""

    low: str
    high: str
    low_closed: bool = False
    high_closed: bool = False


@dataclass(frozen=True)
class RealSet:
    """A union of intervals. subject: the name whose values these are, "" if the text names none."""

    intervals: tuple[Interval, ...]
    subject: str = ""
    written_as_interval: bool = False


WHOLE_LINE = (Interval(LOW, HIGH),)


@functools.lru_cache(maxsize=8192)
def real_set(text: str) -> RealSet | None:
    """Return the set of real numbers that `text`, in normal form, spells; None if it spells no such set."""
    if _WHOLE_LINE.fullmatch(text):
        return RealSet(WHOLE_LINE)
    without = _ALL_BUT.fullmatch(text) or _ALL_EXCEPT.fullmatch(text)
    if without:
        return _all_but(split(without["points"], _COMMA))
    builder = _BUILDER.fullmatch(text)
    if builder:
        return real_set(builder["condition"])
    member = _MEMBER.fullmatch(text)
    if member:
        found = real_set(member["set"])
        return found and RealSet(found.intervals, member["name"], found.written_as_interval)
    return _alternatives(text)


def _alternatives(text: str) -> RealSet | None:
    parts = split(text, _OR)
    if not parts:
        return None
    if len(parts) > 1:
        return _united([real_set(part) for part in parts])
    parts = split(text, _AND)
    if len(parts) > 1:
        return _intersection([real_set(part) for part in parts])
    if OPERATOR.search(text):
        commas = split(text, _COMMA)
        if len(commas) > 1:
            found = [real_set(part) for part in commas]
            return _intersection(found) or _united(found)
        return _from_relation(text)
    return _from_interval(text)


def _united(found: list[RealSet | None]) -> RealSet | None:
    sets = [one for one in found if one is not None]
    subjects = {one.subject for one in sets if one.subject}
    if len(sets) < len(found) or len(subjects) > 1:
        return None
    intervals = tuple(interval for one in sets for interval in one.intervals)
    return RealSet(intervals, next(iter(subjects), ""), all(one.written_as_interval for one in sets))


def _intersection(found: list[RealSet | None]) -> RealSet | None:
    """Return the numbers that all sets hold; None if there are none, or if an end has no value."""
    sets = [one for one in found if one is not None]
    subjects = {one.subject for one in sets if one.subject}
    if len(sets) < len(found) or len(subjects) > 1:
        return None
    common = sets[0].intervals
    for one in sets[1:]:
        pairs = [_overlap(first, second) for first in common for second in one.intervals]
        common = tuple(pair for pair in pairs if pair)
    return RealSet(common, next(iter(subjects), "")) if common else None


def _overlap(one: Interval, other: Interval) -> Interval | None:
    values = [_value(end) for end in (one.low, other.low, one.high, other.high)]
    if any(value is None for value in values):
        return None
    one_low, other_low, one_high, other_high = (real(value) for value in values)
    lower = max((one_low, not one.low_closed, one.low), (other_low, not other.low_closed, other.low))
    upper = min((one_high, one.high_closed, one.high), (other_high, other.high_closed, other.high))
    if lower[0] > upper[0] or (lower[0] == upper[0] and (lower[1] or not upper[1])):
        return None
    return Interval(lower[2], upper[2], not lower[1], upper[1])


def _all_but(points: tuple[str, ...] | list[str]) -> RealSet | None:
    valued = [(value, point) for point in points if (value := _value(point)) is not None]
    if len(valued) < len(points) or not valued:
        return None
    ends = [LOW, *(point for _, point in sorted(valued, key=lambda pair: real(pair[0]))), HIGH]
    return RealSet(tuple(Interval(low, high) for low, high in pairwise(ends)))


def _from_relation(text: str) -> RealSet | None:
    parts = split_with(text, OPERATOR)
    sides, operators = [side for side, _ in parts], [operator for _, operator in parts[:-1]]
    if not all(sides):
        return None
    if len(sides) == 2:
        return _ray(sides[0], sides[1], operators[0])
    if len(sides) == 3 and _is_subject(sides):
        left, right = operators
        if left in ("<", r"\le") and right in ("<", r"\le"):
            interval = Interval(sides[0], sides[2], left == r"\le", right == r"\le")
        elif left in (">", r"\ge") and right in (">", r"\ge"):
            interval = Interval(sides[2], sides[0], right == r"\ge", left == r"\ge")
        else:
            return None
        size = _ABSOLUTE.fullmatch(sides[1])
        if size is None:
            return RealSet((interval,), sides[1])
        below = Interval(f"-({interval.high})", f"-({interval.low})", interval.high_closed, interval.low_closed)
        return RealSet((below, interval), size["name"])
    return None


def _is_subject(sides: list[str]) -> bool:
    """Return whether the side in the middle is a name, or a quantity that varies between ends that do not."""
    if _SUBJECT.fullmatch(sides[1]):
        return True
    middle, ends = read(sides[1]), (_value(sides[0]), _value(sides[2]))
    return middle is not None and bool(middle.symbols) and None not in ends


def _ray(left: str, right: str, operator: str) -> RealSet | None:
    if not _SUBJECT.fullmatch(left) or (_SUBJECT.fullmatch(right) and _names_before(right, left)):
        left, right, operator = right, left, TURNED[operator]
    if not _SUBJECT.fullmatch(left):
        return None
    size = _ABSOLUTE.fullmatch(left)
    if size:
        return _of_absolute(size["name"], right, operator)
    if operator == r"\ne":
        return RealSet((Interval(LOW, right), Interval(right, HIGH)), left)
    closed = operator in (r"\le", r"\ge")
    below = operator in ("<", r"\le")
    interval = Interval(LOW, right, False, closed) if below else Interval(right, HIGH, closed, False)
    return RealSet((interval,), left)


def _of_absolute(name: str, bound: str, operator: str) -> RealSet | None:
    closed, negative = operator in (r"\le", r"\ge"), f"-({bound})"
    if operator in ("<", r"\le"):
        return RealSet((Interval(negative, bound, closed, closed),), name)
    if operator in (">", r"\ge"):
        return RealSet((Interval(LOW, negative, False, closed), Interval(bound, HIGH, closed, False)), name)
    return None


def _names_before(right: str, left: str) -> bool:
    """Return whether the subject of a relation between two names, such as a < b, is the right one."""
    return right.strip("\\") < left.strip("\\")


def _from_interval(text: str) -> RealSet | None:
    match = _INTERVAL.fullmatch(text)
    if match is None or not match["low"].strip() or not match["high"].strip():
        return None
    if match["open"] in "([" and match["close"] in ")]" and not closes_last(text):
        return None
    low_closed, high_closed = match["open"] == "[", match["close"] == "]"
    if match["open"] == "]" and match["close"] not in "[]":
        return None
    interval = Interval(match["low"].strip(), match["high"].strip().lstrip("+"), low_closed, high_closed)
    return RealSet((interval,), "", written_as_interval=True)


def equal_sets(gold: RealSet, found: RealSet) -> bool:
    """Return whether two sets are equal; two subjects must have the same name if both are named."""
    if gold.subject and found.subject and gold.subject != found.subject:
        return False
    left, right = _ordered(gold.intervals), _ordered(found.intervals)
    return len(left) == len(right) and all(_same(one, other) for one, other in zip(left, right, strict=True))


def _same(one: Interval, other: Interval) -> bool:
    if (one.low_closed, one.high_closed) != (other.low_closed, other.high_closed):
        return False
    return all(
        equal_expressions(mine, theirs) is True for mine, theirs in ((one.low, other.low), (one.high, other.high))
    )


def _ordered(intervals: tuple[Interval, ...]) -> list[Interval]:
    """Return the intervals in the order of their ends, those that touch joined; as written if an end has no value."""
    valued = []
    for interval in intervals:
        low, high = _value(interval.low), _value(interval.high)
        if low is None or high is None:
            return list(intervals)
        valued.append((real(low), not interval.low_closed, real(high), interval))
    joined: list[tuple[Number, Interval]] = []
    for _, _, high, interval in sorted(valued, key=lambda one: one[:3]):
        if joined:
            end, last = joined[-1]
            start = real(_value(interval.low) or Fraction(0))
            if start < end or (start == end and (last.high_closed or interval.low_closed)):
                if high > end or (high == end and interval.high_closed):
                    merged = Interval(last.low, interval.high, last.low_closed, interval.high_closed)
                    joined[-1] = (high, merged)
                continue
        joined.append((high, interval))
    return [interval for _, interval in joined]


def _value(text: str) -> Number | None:
    """Return the real number that an end spells, None if the end has symbols or is no number."""
    expression = read(text)
    if expression is None or expression.symbols:
        return None
    try:
        return ordered(expression.evaluate({}))
    except (ArithmeticError, ValueError, TypeError):
        return None

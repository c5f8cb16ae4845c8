"""The faults and warnings that follow from a reward's grades of gold and of wrong answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from llmrl.check import writing
from llmrl.check.report import Report
from llmrl.errors import short
from llmrl.rewards.results import NO_REWARD
from llmrl.rewards.reward import Reward
from llmrl.types import Group, Prompt, Score, Trajectory

ROWS_THAT_TELL = 8
"""Of fewer rows, a share says nothing."""
FEW_ROWS = 100
"""Of more rows, half of the answers is two standard deviations above a half: of two answers each is right in half."""
SHOWN_ROWS = 3


@dataclass(frozen=True)
class Graded:
    """One row's answers: its golds by the way they are written, respelt ones, and wrong ones by name."""

    prompt: Prompt
    golds: Mapping[str, list[Trajectory]]
    respelt: list[Trajectory] = field(default_factory=list)
    wrong: Mapping[str, Trajectory] = field(default_factory=dict)

    @property
    def right(self) -> list[Trajectory]:
        """The gold answers, in every way."""
        return [one for found in self.golds.values() for one in found]

    @property
    def group(self) -> Group:
        """All answers, to be scored."""
        return Group(self.prompt, [*self.right, *self.respelt, *self.wrong.values()])

    @property
    def of_another_task(self) -> bool:
        """Whether the reward returned None for every answer."""
        trajectories = self.group.trajectories
        return bool(trajectories) and all(one.failure is NO_REWARD for one in trajectories)

    def accepts(self, way: str) -> bool:
        """Whether every gold written in this way was found right."""
        return way in self.golds and all(one.correct for one in self.golds[way])

    def earned(self, way: str, name: str) -> float:
        """The sum of the values that the reward `name` gave the golds written in this way."""
        return math.fsum(one.scores[name].value for one in self.golds.get(way, []) if name in one.scores)

    def verdicts(self, name: str) -> list[bool]:
        """The verdicts that the reward `name` gave."""
        scores = [one.scores[name] for one in self.group.trajectories if name in one.scores]
        return [score.correct for score in scores if score.correct is not None]


def judge(reward: Reward, graded: Sequence[Graded], rows: int, report: Report) -> None:
    """Add the faults and warnings of a reward, and print what it pays; rows: how many there are, graded or not.

    A problem of every row is a fault, of some rows a warning. A wrong answer that earns more than half of what golds
    earn, on average over the rows, is a warning.
    """
    graded = [one for one in graded if not one.of_another_task]
    is_verifier = any(one.verdicts(reward.name) for one in graded)
    problems = 0
    asked: dict[Callable[[Graded], str | None], list[Graded]] = {partial(_failed, reward): graded}
    if is_verifier:
        asked |= {_rejected: [one for one in graded if one.golds], _accepts_anything: [g for g in graded if g.wrong]}
    for find, among in asked.items():
        found = {one.prompt.id: text for one in among if (text := find(one))}
        problems += bool(found)
        _tell(reward, found, len(among), report)
    counted = f"{len(graded)} rows" if len(graded) == rows else f"{len(graded)} of {rows} rows"
    verdict = "refuses garbage" if is_verifier else "no verifier; ran without failure"
    if is_verifier and any(one.golds for one in graded):
        verdict = f"accepts their own answers, {verdict}"
    summary = f"{counted} graded" if problems else f"{verdict} ({counted})"
    report.say("reward", f"{reward.name}, weight {reward.weight:g}: {summary}")
    if is_verifier:
        _say_ways(graded, report)
    _say_earnings(reward, graded, report, is_verifier=is_verifier)


def _failed(reward: Reward, one: Graded) -> str | None:
    failed = next((t for t in one.group.trajectories if t.failure), None)
    if failed is None or failed.failure is None:
        return None
    given = "".join(
        f"; the data has no column {name!r}, so the function was given {value!r}: name one in columns: {{{name}: ...}}"
        for name, value in reward.stood_for(one.prompt.row).items()
    )
    return f"failed ({failed.failure.kind}) on {short(failed.text)}: {failed.failure.message}{given}"


def _rejected(one: Graded) -> str | None:
    if any(one.accepts(way) for way in one.golds) or any(t.failure for t in one.group.trajectories):
        return None
    tried = ", ".join(short(t.text) for t in one.right)
    return f"does not accept the row's own gold answer {short(one.prompt.row.get('answer'))}; graded {tried}"


def _accepts_anything(one: Graded) -> str | None:
    accepted = [name for name in (writing.GARBAGE, writing.UNKNOWN) if one.wrong[name].correct]
    return f"accepts {accepted[0]!r} as a right answer" if accepted else None


def _tell(reward: Reward, found: Mapping[str, str], among: int, report: Report) -> None:
    """One fault or warning for all rows that have the same kind of problem."""
    if not found:
        return
    places = list(found)[:SHOWN_ROWS]
    first = f"the first {'is' if len(places) == 1 else 'are'} {', '.join(places)}"
    text = f"rewards.{reward.name}: {found[places[0]]} ({len(found)} of {among} rows, {first})"
    if len(found) == among:
        report.faults.append(text)
    else:
        report.warn(text)


def _say_ways(graded: Sequence[Graded], report: Report) -> None:
    """Print in how many rows the gold is accepted, way by way."""
    ways = dict.fromkeys(way for one in graded for way in one.golds)
    counts = [f"{way} {sum(one.accepts(way) for one in graded)}" for way in ways]
    respelt = [one for one in graded if one.respelt]
    if respelt:
        accepted = sum(all(t.correct for t in one.respelt) for one in respelt)
        counts.append(f"spelt otherwise (as {short(respelt[0].respelt[0].text)}) {accepted}")
    if counts:
        report.say("", f"golds accepted: {', '.join(counts)}")


def _say_earnings(reward: Reward, graded: Sequence[Graded], report: Report, *, is_verifier: bool) -> None:
    """Print what golds and wrong answers earn on average, and warn of wrong answers that earn much."""
    with_gold = [one for one in graded if one.golds]
    if is_verifier and len(with_gold) < len(graded):
        without = f"{len(graded) - len(with_gold)} of {len(graded)} rows have no gold answer"
        report.warn(f"rewards.{reward.name}: {without}, so what a right answer earns is not known")
    gold = _mean(max((_value(reward, t) for t in one.right), default=math.nan) for one in with_gold)
    names = dict.fromkeys(name for one in graded for name in one.wrong)
    texts = [] if math.isnan(gold) else [f"the gold {gold:.2g}"]
    for name in names:
        answers = [one.wrong[name] for one in graded if name in one.wrong]
        mean, right = _mean(_value(reward, t) for t in answers), sum(t.correct is True for t in answers)
        shown = _shown(name, answers[0])
        texts.append(f"{shown} {mean:.2g}" + (f" (right in {right} of {len(answers)} rows)" if right else ""))
        half = (1 + 2 / math.sqrt(len(answers))) / 2 if len(answers) > FEW_ROWS else 0.5
        earns_much = right > half * len(answers) or mean > half * (1.0 if math.isnan(gold) else gold)
        if is_verifier and earns_much and len(answers) >= ROWS_THAT_TELL:
            earned = f"earns {mean:.2g} on average and is right in {right} of {len(answers)} rows"
            report.warn(f"rewards.{reward.name}: {shown} {earned}: a model can learn to give it always")
    report.say("", f"earned on average: {', '.join(texts)}")


def _shown(name: str, answer: Trajectory) -> str:
    if name == writing.SAME_GOLD:
        return f"{name}, {short(answer.text)},"
    return name if name == writing.OTHER_GOLD else repr(name)


def _value(reward: Reward, trajectory: Trajectory) -> float:
    return trajectory.scores.get(reward.name, Score(math.nan)).value


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan

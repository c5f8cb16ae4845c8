"""Tasks of reasoning-gym that are answered in several tries, each of which is told its score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt

from llmrl.envs.hosts import HostedWorld, shared
from llmrl.envs.world import Outcome
from llmrl.marks import settings_checked_by
from llmrl.rewards.reasoning_gym import Extract, entry_of, read_answer
from llmrl.templates import RowTemplate

Text = Annotated[str, Field(min_length=1)]
SAYS = ("score", "best", "left")


def _check(*, tell: str, **others: Any) -> None:
    """Raises ValueError for a template of other names than SAYS."""
    RowTemplate(tell).check(SAYS)


@settings_checked_by(_check)
def reasoning_gym(
    row: Mapping[str, Any],
    *,
    tries: PositiveInt = 3,
    tell: Text = "Your answer scores {score} of 1. Tries left: {left}.",
    cost: FiniteFloat = 0.0,
    extract: Extract | None = None,
    tag: Text = "answer",
    deadline_seconds: PositiveFloat = 60.0,
    processes: PositiveInt | None = None,
) -> HostedWorld:
    """A reasoning-gym entry that may be answered again after each wrong answer, in a host process.

        reward of try k = max(0, score_k - the best score before) - cost

    so that without a cost the rewards of an episode add up to its best score. The library's tasks are single questions:
    it offers no steps of its own, and these tries are scored by the task's own scorer. tries: in all, after which the
    episode is terminated; tell: after a wrong answer, a template of score, best and left. extract, tag: the part of
    the text that is the answer, as in the reward reasoning_gym; a text without one is invalid and uses up no try.
    deadline_seconds: of each call. processes: that score; default: half of the cores.
    """
    given = {"row": dict(row), "tries": tries, "tell": tell, "cost": cost, "extract": extract, "tag": tag}
    return shared(processes).world(Tries, given, name="reasoning_gym", deadline_seconds=deadline_seconds)


class Tries:
    """The tries at one entry, in a host; the settings are those of `reasoning_gym`. The question is the row's."""

    def __init__(
        self, *, row: Mapping[str, Any], tries: int, tell: str, cost: float, extract: Extract | None, tag: str
    ):
        self._row, self._left, self._tell, self._cost = row, tries, RowTemplate(tell), cost
        self._extract: Extract | None = extract
        self._tag = tag
        self._entry, self._task = entry_of(row)
        self._best = 0.0
        self._over = False

    def reset(self, seed: int) -> Outcome:
        return Outcome(solved=False, hidden=f"The answer is: {self._row['answer']}")

    def act(self, action: str) -> Outcome:
        """The score of one try."""
        if self._over:
            raise RuntimeError("act after the last try")
        answer = read_answer(action, row=self._row, extract=self._extract, tag=self._tag)
        if answer is None:
            return Outcome("There is no answer in this.", valid=False)
        score = self._task.score_or_zero(answer, self._entry)
        gain, self._best = max(0.0, score - self._best), max(score, self._best)
        self._left -= 1
        solved = score >= 1.0
        self._over = solved or not self._left
        told = self._tell.fill({"score": f"{score:.2f}", "best": f"{self._best:.2f}", "left": self._left})
        return Outcome(
            told,
            reward=gain - self._cost,
            terminated=self._over,
            solved=solved,
            metrics={"best_score": self._best},
        )

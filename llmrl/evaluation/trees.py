"""The tallies of questions whose answers are trees of moves, with the answers that are voted on."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence

from llmrl.evaluation.critique import draft_of, is_answer, tally, total, vote_tally
from llmrl.types import Group, Trajectory

Answers = Callable[[Sequence[Group]], list[list[int | None]] | None]
"""The numbers of each group's answers; see llmrl.rewards.base.Rewards.answers."""


def tallies(
    groups: Sequence[Group], answers: Answers | None = None, pattern: str | None = None
) -> list[dict[str, float]]:
    """One tally of each question, of the groups that hold its trajectories; none where nothing follows an answer.

    answers, pattern: see `voted`.
    """
    questions: dict[str, list[Trajectory]] = {}
    for group in groups:
        questions.setdefault(group.prompt.id, []).extend(group.trajectories)
    if not any(one.parent for own in questions.values() for one in own):
        return []
    asked = {group.prompt.id: group.prompt for group in groups}
    judged = {name: _with_drafts(own) for name, own in questions.items()}
    texts = voted([Group(asked[name], own) for name, own in judged.items()], answers, pattern)
    given = {
        id(one): text
        for own, said in zip(judged.values(), texts, strict=True)
        for one, text in zip(own, said, strict=True)
    }
    return [
        total([
            tally(own, lambda one: given[id(one)]),
            vote_tally([one for one in own if one.parent is None], lambda one: given[id(one)]),
        ])
        for own in questions.values()
    ]  # fmt: skip


def voted(groups: Sequence[Group], answers: Answers | None, pattern: str | None) -> list[list[Hashable | None]]:
    """The vote of each trajectory of the groups: the pattern's match, else its answer's number, else its text."""
    numbers = answers(groups) if answers and pattern is None else None
    return [list(own) for own in numbers or [[text_of(t, pattern) for t in group.trajectories] for group in groups]]


def text_of(trajectory: Trajectory, pattern: str | None) -> Hashable | None:
    """The text to vote on, if there is one: the first group of the pattern's last match, or the whole match."""
    if pattern is None:
        return trajectory.text.strip() or None
    matches = list(re.finditer(pattern, trajectory.text))
    return matches[-1][1 if matches[-1].re.groups else 0] if matches else None


def final(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """Those that none of the others refines."""
    refined = {id(draft_of(one)) for one in trajectories if is_answer(one)}
    return [one for one in trajectories if id(one) not in refined]


def _with_drafts(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    """The answers among the trajectories, and their drafts, which another author may have written."""
    answers = [one for one in trajectories if is_answer(one)]
    return list({id(one): one for one in [*answers, *filter(None, map(draft_of, answers))]}.values())

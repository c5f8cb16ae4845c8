"""Paths of one question that are compared step by step, and a worse one that goes on as a better one does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from llmrl.data.steps import split_steps
from llmrl.models.text import Decode, step_ends
from llmrl.types import ENVIRONMENT, Group, Prompt, Trajectory, Turn


@dataclass(frozen=True)
class Pair:
    """A better and a worse path of one question, as steps. begin: the first step in which they differ."""

    prompt: Prompt
    good: list[Turn]
    bad: list[Turn]
    author: str

    @property
    def begin(self) -> int:
        alike = zip(self.good, self.bad, strict=False)
        same = [one.author == other.author and one.token_ids == other.token_ids for one, other in alike]
        return [*same, False].index(False)

    @property
    def actions(self) -> list[int]:
        """The places of the author's steps on the worse path that are not on the better one."""
        return [n for n, turn in enumerate(self.bad) if n >= self.begin and turn.author == self.author]


def splice(pair: Pair, cut: int, between: Sequence[Turn], stops: Collection[int] = ()) -> list[Turn]:
    """The worse path up to its step `cut`, and what the environment said to that, then `between`, then the better
    path's steps from the first in which the two differ.

    What is taken of the worse path becomes the environment's, so that it is read and not learned; the other steps are
    their author's, and as nobody sampled them there, they have no log-probabilities. stops: tokens that end a turn, and
    are left out where the turn goes on.
    """
    end = cut + 1
    while end < len(pair.bad) and pair.bad[end].author == ENVIRONMENT:
        end += 1
    read = [
        Turn(ENVIRONMENT, [token for token in turn.token_ids if token not in stops], text=turn.text)
        for turn in pair.bad[:end]
    ]
    rest = [Turn(turn.author, turn.token_ids, text=turn.text) for turn in pair.good[pair.begin :]]
    return [*read, *between, *rest]


def steps_of(trajectory: Trajectory, separator: str | None, decode: Decode) -> list[Turn]:
    """The turns of a trajectory; with a separator the parts of the author's turns, each with the text that ends it."""
    if separator is None:
        return trajectory.turns
    found: list[Turn] = []
    for turn in trajectory.turns:
        if turn.author != trajectory.author:
            found.append(turn)
            continue
        steps = split_steps(turn.text, separator)
        ends = [place + 1 for place in step_ends(decode, turn.token_ids, turn.text, steps, separator)]
        parts = [turn.token_ids[begin:end] for begin, end in pairwise([0, *ends])]
        found += [Turn(turn.author, part, text=decode(part)) for part in parts]
    return found


def pairs_of(
    group: Group, *, least_good: float, least_gap: float, steps: Callable[[Trajectory], list[Turn]]
) -> list[Pair]:
    """The best trajectory of a group with each worse one.

    reward_best > least_good, reward_best - reward > least_gap; a trajectory that failed is neither.
    """
    live = [one for one in group.trajectories if one.failure is None]
    best = max(live, key=lambda one: one.reward, default=None)
    if best is None or best.reward <= least_good:
        return []
    good, worse = steps(best), [one for one in live if best.reward - one.reward > least_gap]
    return [Pair(group.prompt, good, steps(one), group.author) for one in worse]

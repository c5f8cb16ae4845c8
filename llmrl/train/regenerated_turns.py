"""Turns that failed, such as tool calls, sampled anew from the text before them: THOR."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from llmrl.data.stream import PromptStream
from llmrl.envs.base import AuthorText
from llmrl.models.text import end_of
from llmrl.pieces import Piece
from llmrl.recipe import Rollout
from llmrl.rollout.collect import Collected, Collector, SampleGroups
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.train.sources_of_rollouts import Rollouts
from llmrl.types import POLICY, Group, Prompt, Trajectory, Turn

Marker = Annotated[str, Field(min_length=1)]


def regenerated_turns(
    stream: PromptStream,
    collector: Collector,
    sample_groups: SampleGroups,
    keep: Mapping[str, Piece],
    rollout: Rollout,
    params: Callable[[int], SamplingParams],
    author: str,
    *,
    least: float = 1.0,
    marker: Marker | None = "```python\n",
    drop_tokens: NonNegativeInt = 100,
    otherwise: float = 0.0,
    most: PositiveInt | None = None,
) -> RegeneratedTurns:
    """The policy's own samples and, for those with a turn that failed, a group of new versions of that turn.

        samples without a failed turn    compared by their outcomes; the rewards of their turns are dropped
        the last failed turn of others   cut before its `marker` and another drop_tokens tokens, and sampled anew from
                                         there as often as a question is; compared by the rewards of the new turns

    So both are groups of advantages such as turn_grpo, and only the new tokens of a turn are learned. least: a turn of
    a lower reward failed. marker: what begins a call; None: the whole turn is sampled anew. otherwise: the reward of a
    new turn that the environment gives none. most: failed samples of a step that are cut, drawn at random; default:
    rollout.prompts_per_step. A new group of equal rewards is dropped, and so is what is longer before the cut than
    rollout.max_prompt_tokens. The environment has to begin with its prompt's tokens, as python_tool does. Source: THOR,
    arXiv 2509.13761.
    """
    cut = Cut(collector.authors[author].text, author, least, marker, drop_tokens)
    most = rollout.prompts_per_step if most is None else most
    fresh = Rollouts(stream, collector, sample_groups, keep, rollout, params)
    return RegeneratedTurns(fresh, cut, otherwise, most)


@dataclass(frozen=True)
class Cut:
    """Finds the last failed turn of a trajectory, and the text before it; see regenerated_turns."""

    text: AuthorText
    author: str
    least: float
    marker: str | None
    drop_tokens: int

    def failed(self, trajectory: Trajectory) -> int | None:
        """The place, among all turns, of the author's last turn of a reward below `least`; None without one."""
        places = [
            place
            for place, turn in enumerate(trajectory.turns)
            if turn.author == self.author and turn.reward is not None and turn.reward < self.least
        ]
        return places[-1] if places else None

    def before(self, trajectory: Trajectory, place: int) -> Prompt:
        """Everything before the failed turn, and the turn up to where it is cut, as a prompt."""
        turn = trajectory.turns[place]
        kept = 0
        if self.marker is not None and self.marker in turn.text:
            begins = end_of(lambda ids: self.text.decode(list(ids)), turn.token_ids, turn.text.rindex(self.marker) + 1)
            kept = max(begins - self.drop_tokens, 0)
        said = [token for one in trajectory.turns[:place] for token in one.token_ids]
        token_ids = (*trajectory.prompt.token_ids, *said, *turn.token_ids[:kept])
        return replace(trajectory.prompt, token_ids=token_ids, text=self.text.decode(list(token_ids)), messages=None)


@dataclass
class RegeneratedTurns:
    """A source of samples and of new versions of failed turns; see regenerated_turns."""

    fresh: Rollouts
    cut: Cut
    otherwise: float
    most: int

    def collect(self, seed: int) -> Collected:
        found = self.fresh.collect(seed)
        own = [t for group in found.sampled if group.author == self.cut.author for t in group.trajectories]
        tried = [one for one in own if one.failure is None and one.writer == POLICY]
        failed = [(one, place) for one in tried if (place := self.cut.failed(one)) is not None]
        draw = random.Random(derive_seed(seed, "failed turns"))
        chosen = draw.sample(failed, min(self.most, len(failed)))
        asked = [self.cut.before(one, place) for one, place in chosen]
        short = [prompt for prompt in asked if len(prompt.token_ids) <= self.fresh.rollout.max_prompt_tokens]
        again = replace(self.fresh.params(seed), seed=derive_seed(seed, "turns anew"))
        new = self.fresh.sample_groups(short, again) if short else []
        components = dict.fromkeys(next((one.components for one in tried if one.components), {}), 0.0)
        turns = [self._turns(group, components) for group in new]
        groups = [self._outcomes(group) for group in found.groups]
        left = [*(group for group in groups if group.trajectories), *filter(_differ, turns)]
        passed = [float(t.turns[0].reward or 0.0) for group in turns for t in group.trajectories]
        metrics = {
            "regenerated/failed": len(failed) / max(len(tried), 1),
            "regenerated/too_long": (len(asked) - len(short)) / max(len(asked), 1),
            **({"regenerated/turn_reward": sum(passed) / len(passed)} if passed else {}),
        }
        return Collected(left or found.groups, found.metrics | metrics, [*found.sampled, *new])

    def _outcomes(self, group: Group) -> Group:
        """The trajectories without a failed turn, whose outcomes alone are compared."""
        if group.author != self.cut.author:
            return group
        whole = [one for one in group.trajectories if self.cut.failed(one) is None]
        return replace(group, trajectories=[replace(one, turns=[_unpaid(turn) for turn in one.turns]) for one in whole])

    def _turns(self, group: Group, components: dict[str, float]) -> Group:
        """The first turns alone, with no reward beside their own."""
        made = []
        for one in (one for one in group.trajectories if one.failure is None and one.own_turns):
            first = one.own_turns[0]
            paid = replace(first, reward=self.otherwise if first.reward is None else first.reward)
            alone = replace(one, turns=[paid], components=components, reward=0.0, turn_rewards=[], token_rewards={})
            made.append(alone)
        return replace(group, trajectories=made)

    def state_dict(self) -> dict[str, Any]:
        return self.fresh.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.fresh.load_state_dict(state)


def _unpaid(turn: Turn) -> Turn:
    return replace(turn, reward=None)


def _differ(group: Group) -> bool:
    """Whether the rewards of the new turns differ."""
    return len({one.turns[0].reward for one in group.trajectories}) > 1

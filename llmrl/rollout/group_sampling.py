"""From a round's prompts to groups: evenly or by an allocation, with the providers' fields of each question."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llmrl.pieces import Piece
from llmrl.rollout.collect import Collector, SampleGroups
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.types import Episode, Group, Prompt, Trajectory


@dataclass(frozen=True)
class Evenly:
    """The same number of completions for each prompt; writers: of those that are not among the policy's `own`."""

    collector: Collector
    own: int
    writers: Sequence[str] = ()

    def __call__(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Group]:
        return self.collector.sample(prompts, group_size=self.own, params=params, writers=self.writers)


@dataclass(frozen=True)
class Allocated:
    """`first` completions of each prompt, then `rounds` rounds in which `allocate` hands out the rest of the budget.

    The budget is group_size completions for each prompt, as without an allocation. providers: by field, for the fields
    that `allocate` reads besides counts and rewards.
    """

    collector: Collector
    allocate: Piece
    group_size: int
    first: int
    rounds: int
    providers: Mapping[str, Callable[[Sequence[Group]], Tensor]]

    def __call__(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Group]:
        seeds = [derive_seed(params.seed, "round", number) for number in range(self.rounds + 1)]
        groups = self.collector.sample(prompts, group_size=self.first, params=replace(params, seed=seeds[0]))
        left, begun = (self.group_size - self.first) * len(prompts), [self.first] * len(prompts)
        for number in range(self.rounds):
            budget = left // (self.rounds - number)
            left -= budget
            known = self._fields([group for group in groups if _answers(group, self.collector.first)])
            counts = self.allocate(known | {"budget": budget}).tolist()
            own = replace(params, seed=seeds[number + 1])
            more = self.collector.sample(prompts, group_size=counts, params=own, begun=begun)
            begun = [before + count for before, count in zip(begun, counts, strict=True)]
            groups = _with_round(groups, more)
        return groups

    def _fields(self, groups: Sequence[Group]) -> dict[str, Any]:
        """The fields of each prompt that an allocation may read; failed completions do not count."""
        scored = [[t for t in group.trajectories if not t.failure] for group in groups]
        rewards = [[t.reward for t in group] for group in scored]
        known = {
            "samples": [len(group) for group in scored],
            "successes": [sum(succeeded(t) for t in group) for group in scored],
            "means": [statistics.fmean(group) if group else 0.0 for group in rewards],
            "stds": [statistics.stdev(group) if len(group) > 1 else 0.0 for group in rewards],
        }
        provided = {name: provider(groups) for name, provider in self.providers.items()}
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in known.items()} | provided


@dataclass(frozen=True)
class Provided:
    """The groups with the providers' fields of each question; measured_once: see llmrl.marks.measured_once_by."""

    sample_groups: SampleGroups
    collector: Collector
    providers: Sequence[Piece]
    measured_once: Mapping[str, Mapping[str, float]]

    def __call__(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Group]:
        groups = self.sample_groups(prompts, params)
        for provider in self.providers:
            own = self.measured_once.get(provider.name, {})
            groups = provider({"groups": groups, "collector": self.collector, "params": params, "measured_once": own})
        return groups


def _answers(group: Group, first: str) -> bool:
    """Whether a group holds the first author's answers to a question; there is one such group for each question."""
    return group.author == first and all(one.parent is None for one in group.trajectories) and not _compared(group)


def _compared(group: Group) -> str:
    return group.trajectories[0].compared if group.trajectories else ""


def _with_round(groups: Sequence[Group], more: Sequence[Group]) -> list[Group]:
    """The groups joined with those of a later round, whose episodes get the following numbers."""
    episodes: dict[int, dict[int, Episode]] = {}
    together: dict[tuple[int, str, str], Group] = {}
    for group in (*groups, *more):
        found = episodes.setdefault(group.place, {})
        found.update({id(t.episode): t.episode for t in group.trajectories if t.episode})
        key = (group.place, group.author, _compared(group))
        before = together.get(key)
        together[key] = replace(group, trajectories=[*(before.trajectories if before else []), *group.trajectories])
    for of_question in episodes.values():
        for number, episode in enumerate(of_question.values()):
            episode.number = number
    return sorted(together.values(), key=lambda group: group.place)


def succeeded(trajectory: Trajectory) -> bool:
    """Whether a trajectory counts as a success: the verifier's verdict, or without one a positive reward."""
    return trajectory.verdict_or_reward > 0

"""How the completions of a round are spread over its prompts: evenly, by an allocation, with a greedy one besides."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from llmrl.pieces import Piece
from llmrl.rollout.collect import Collector, Draw
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.types import Group, Prompt, Trajectory

GradientNorms = Callable[[Sequence[Group]], list[float]]
"""For each group, what the policy's gradient of one of its successes measures on average; 0 without successes."""


@dataclass(frozen=True)
class Evenly:
    """The same number of completions for each prompt."""

    collector: Collector
    group_size: int

    def __call__(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Group]:
        return self.collector.sample(prompts, group_size=self.group_size, params=params)


@dataclass(frozen=True)
class Allocated:
    """`first` completions of each prompt, then as many rounds in which `allocate` hands out the rest of the budget.

    The budget is group_size completions for each prompt, so a step costs what it costs without an allocation.
    """

    collector: Collector
    allocate: Piece
    group_size: int
    first: int
    rounds: int
    gradient_norms: GradientNorms

    def __call__(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Group]:
        seeds = [derive_seed(params.seed, "round", number) for number in range(self.rounds + 1)]
        groups = self.collector.sample(prompts, group_size=self.first, params=replace(params, seed=seeds[0]))
        left = (self.group_size - self.first) * len(prompts)
        for number in range(self.rounds):
            budget = left // (self.rounds - number)
            left -= budget
            counts = self.allocate(self._what_is_known(groups) | {"budget": budget}).tolist()
            more = self.collector.sample(prompts, group_size=counts, params=replace(params, seed=seeds[number + 1]))
            groups = [
                replace(group, trajectories=group.trajectories + extra.trajectories)
                for group, extra in zip(groups, more, strict=True)
            ]
        return groups

    def _what_is_known(self, groups: Sequence[Group]) -> dict[str, Any]:
        """What an allocation may read of each prompt's completions so far; those that failed say nothing."""
        scored = [[t for t in group.trajectories if not t.failure] for group in groups]
        rewards = [[t.reward for t in group] for group in scored]
        known = {
            "samples": [len(group) for group in scored],
            "successes": [sum(succeeded(t) for t in group) for group in scored],
            "means": [statistics.fmean(group) if group else 0.0 for group in rewards],
            "stds": [statistics.stdev(group) if len(group) > 1 else 0.0 for group in rewards],
        }
        if "gradient_norms" in self.allocate.data:
            known["gradient_norms"] = self.gradient_norms(groups)
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in known.items()}


@dataclass(frozen=True)
class WithGreedy:
    """Besides, one greedy completion of each prompt, which is scored and never trained on."""

    draw: Draw
    collector: Collector

    def __call__(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Group]:
        plain = replace(params, temperature=0.0, top_p=1.0, top_k=None)
        greedy = self.collector.sample(prompts, group_size=1, params=plain)
        groups = self.draw(prompts, params)
        return [replace(group, greedy=best.trajectories[0]) for group, best in zip(groups, greedy, strict=True)]


@dataclass(frozen=True)
class WithStaticValues:
    """Each group with its prompt's static value; a prompt that was not measured has none."""

    draw: Draw
    values: dict[str, float]

    def __call__(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Group]:
        return [
            replace(group, static_value=self.values[group.prompt.id]) if group.prompt.id in self.values else group
            for group in self.draw(prompts, params)
        ]


def succeeded(trajectory: Trajectory) -> bool:
    """Whether a trajectory counts as a success: the verifier's verdict, or without one a positive reward."""
    return trajectory.outcome > 0

"""Fields of each question: measured by sampling the question anew, or read off the answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pydantic import PositiveInt

from llmrl.marks import measured_once_by
from llmrl.rollout.collect import Collector
from llmrl.rollout.sampler import SamplingParams
from llmrl.types import Group, Prompt


def greedy_rewards(groups: Sequence[Group], collector: Collector, params: SamplingParams) -> list[Group]:
    """The groups with the reward of a greedy answer, never trained on, to the same question; nan where it failed.

    Source: ReMax, arXiv 2310.10505.
    """
    questions = {group.place: group.prompt for group in groups}
    sampled = collector.sample(list(questions.values()), group_size=1, params=params.at(temperature=0.0))
    greedy = {(list(questions)[one.place], one.author): one.trajectories[0] for one in sampled}
    found = []
    for group in groups:
        best = greedy.get((group.place, group.author))
        reward = best.reward if best and not best.failure else math.nan
        known = group.known | {"greedy_rewards": reward}
        found.append(replace(group, known=known, besides=[*group.besides, *([best] if best else [])]))
    return found


def _mean_rewards(
    prompts: Sequence[Prompt], sample: Callable[..., list[Group]], *, samples: PositiveInt = 8
) -> tuple[dict[str, float], list[Group]]:
    """The policy's mean reward on each prompt, by prompt id, over the scored ones of `samples` completions."""
    groups = sample(prompts, group_size=samples)
    means = {}
    for group in groups:
        rewards = [t.reward for t in group.trajectories if not t.failure]
        if rewards:
            means[group.prompt.id] = sum(rewards) / len(rewards)
    return means, groups


@measured_once_by(_mean_rewards)
def static_values(
    groups: Sequence[Group], measured_once: Mapping[str, float], *, samples: PositiveInt = 8
) -> list[Group]:
    """The groups with their prompt's static value: the mean reward of the stage's first policy, or nan.

    measured_once: the values, from before the first step on the prompts that the stage will ask, with `samples`
    completions of each. Source: PVPO, arXiv 2508.21104.
    """
    return [
        replace(group, known=group.known | {"static_values": measured_once.get(group.prompt.id, math.nan)})
        for group in groups
    ]


def question_accuracy(groups: Sequence[Group], collector: Collector) -> list[Group]:
    """The groups with the share of right ones among the first answers to their question, whoever wrote the group.

    The first answers are the first role's, of its first move; those without a verdict do not count, and a question
    without any has nan.
    """
    verdicts: dict[int, list[bool]] = {}
    for group in groups:
        for one in group.trajectories:
            if group.author == collector.first and one.parent is None and not one.failure and one.correct is not None:
                verdicts.setdefault(group.place, []).append(one.correct)
    accuracy = {place: sum(found) / len(found) for place, found in verdicts.items()}
    return [
        replace(group, known=group.known | {"question_accuracy": accuracy.get(group.place, math.nan)})
        for group in groups
    ]

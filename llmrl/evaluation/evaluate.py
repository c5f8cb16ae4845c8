"""Accuracy on held-out prompts: greedy, and over samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from llmrl.evaluation.pass_at_k import maj_at_k, pass_at_k, powers_up_to
from llmrl.recipe import Evaluation
from llmrl.rollout.sampler import SamplingParams
from llmrl.types import Group, Prompt, Trajectory


class GroupSampler(Protocol):
    """Samples and scores groups, as the Collector does."""

    def sample(self, prompts: Sequence[Prompt], *, group_size: int, params: SamplingParams) -> list[Group]: ...


Answers = Callable[[Sequence[Group]], list[list[int | None]] | None]
"""The numbers of each group's answers; see llmrl.rewards.base.Rewards.answers."""


def evaluate(
    sampler: GroupSampler,
    prompts: Sequence[Prompt],
    settings: Evaluation,
    params: SamplingParams,
    answers: Mapping[str, Answers] | None = None,
    categories: Mapping[str, str] | None = None,
) -> tuple[dict[str, float], list[Group]]:
    """Metrics under eval/, of authors after the first under author/eval/, and the groups they were measured on.

    accuracy: greedy, one completion a prompt. pass@k, maj@k: over `settings.samples` samples. answers: by author, what
    maj@k votes on unless `settings.answer_pattern` is set; default: the whole text. categories: prompt id -> a part of
    the prompts with metrics of its own, eval/<category>/<metric>. Failed trajectories are counted and left out, never
    taken as wrong; a metric without trajectories is absent. reward/<name>: each of several reward functions.
    """
    greedy = sampler.sample(prompts, group_size=1, params=params.at(temperature=0.0))
    sampled = []
    if settings.samples:
        sampled = sampler.sample(prompts, group_size=settings.samples, params=params.at(settings.temperature))
    metrics: dict[str, float] = {}
    authors = list(dict.fromkeys(group.author for group in greedy))
    for author in authors:
        prefix = "eval/" if author == authors[0] else f"{author}/eval/"
        voted = (answers or {}).get(author)
        for category, asked in _parts(prompts, categories or {}).items():
            own, several = (
                [group for group in groups if group.author == author and group.prompt.id in asked]
                for groups in (greedy, sampled)
            )
            found = _of_author(own, several, settings, len(asked), voted)
            place = f"{prefix}{category}/" if category else prefix
            metrics |= {place + name: value for name, value in found.items()}
    return metrics, greedy + sampled


def _parts(prompts: Sequence[Prompt], categories: Mapping[str, str]) -> dict[str, set[str]]:
    """The ids of all prompts, under an empty name, and of those of each category."""
    parts: dict[str, set[str]] = {"": {prompt.id for prompt in prompts}}
    for prompt in prompts:
        if name := categories.get(prompt.id):
            parts.setdefault(name, set()).add(prompt.id)
    return parts


def _of_author(
    greedy: list[Group], sampled: list[Group], settings: Evaluation, prompts: int, answers: Answers | None
) -> dict[str, float]:
    answered = [t for group in greedy for t in group.trajectories if t.failure is None]
    failures = [t for group in (*greedy, *sampled) for t in group.trajectories if t.failure]
    found = {
        "accuracy": [float(t.correct) for t in answered if t.correct is not None],
        "reward": [t.reward for t in answered],
        "completion_tokens": [float(t.completion_tokens) for t in answered],
        "prompts": [float(prompts)],
        "failures": [float(len(failures))],
    }
    rewards = sorted({name for t in answered for name in t.scores})
    if len(rewards) > 1:
        found |= {f"reward/{name}": [t.scores[name].value for t in answered if name in t.scores] for name in rewards}
    if settings.samples:
        found |= _over_samples([_judged(group) for group in sampled], settings, answers)
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def _over_samples(groups: list[Group], settings: Evaluation, answers: Answers | None) -> dict[str, list[float]]:
    """pass@k and maj@k of each group; a group with fewer than k judged samples has no pass@k."""
    found: dict[str, list[float]] = {}
    verdicts = [[bool(t.correct) for t in group.trajectories] for group in groups]
    for k in powers_up_to(settings.samples):
        found[f"pass@{k}"] = [pass_at_k(correct, k) for correct in verdicts if len(correct) >= k]
    numbers = answers(groups) if answers and settings.answer_pattern is None else None
    votes = numbers or [[_text(t, settings.answer_pattern) for t in group.trajectories] for group in groups]
    voted = [maj_at_k(given, correct) for given, correct in zip(votes, verdicts, strict=True) if given]
    return found | {f"maj@{settings.samples}": voted}


def _judged(group: Group) -> Group:
    judged = [t for t in group.trajectories if t.failure is None and t.correct is not None]
    return replace(group, trajectories=judged)


def _text(trajectory: Trajectory, pattern: str | None) -> Hashable | None:
    """The text to vote on, if there is one: the first group of the pattern's last match, or the whole match."""
    if pattern is None:
        return trajectory.text.strip() or None
    matches = list(re.finditer(pattern, trajectory.text))
    return matches[-1][1 if matches[-1].re.groups else 0] if matches else None

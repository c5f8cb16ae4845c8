"""Accuracy and rewards on held-out prompts: greedy, and over samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from llmrl.evaluation.critique import rates, total
from llmrl.evaluation.pass_at_k import maj_at_k, pass_at_k, powers_up_to
from llmrl.evaluation.trees import Answers, final, tallies, voted
from llmrl.recipe import Evaluation
from llmrl.rollout.sampler import SamplingParams
from llmrl.types import Group, Prompt, Trajectory


class GroupSampler(Protocol):
    """Samples and scores groups, as the Collector does."""

    def sample(self, prompts: Sequence[Prompt], *, group_size: int, params: SamplingParams) -> list[Group]: ...


Divergence = Callable[[Sequence[Group]], float]
"""KL(policy || reference) of sampled groups, in nats a completion; see llmrl.train.divergence."""


def evaluate(
    sampler: GroupSampler,
    prompts: Sequence[Prompt],
    settings: Evaluation,
    params: SamplingParams,
    answers: Mapping[str, Answers] | None = None,
    categories: Mapping[str, str] | None = None,
    divergences: Mapping[str, Divergence] | None = None,
) -> tuple[dict[str, float], list[Group]]:
    """Metrics under eval/, of authors after the first under author/eval/, and the groups they were measured on.

    accuracy, reward, audit: greedy, one completion a prompt. pass@k, maj@k, sampled_reward, sampled_audit, kl: over
    `settings.samples` samples. answers: by author, what maj@k votes on unless `settings.answer_pattern` is set;
    default: the whole text. categories: prompt id -> a part of the prompts with metrics of its own,
    eval/<category>/<metric>. divergences: by author, what measures kl. Failed trajectories are counted and left out,
    never taken as wrong; a metric without trajectories is absent. reward/<name>: each of several reward
    functions.
    """
    greedily = params.at(temperature=0.0).searching(settings.beams, settings.length_exponent)
    greedy = sampler.sample(prompts, group_size=1, params=greedily)
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
            if category:
                kept = {name: value for name, value in found.items() if "/" not in name or name.startswith("reward/")}
                metrics |= {f"{prefix}{category}/{name}": value for name, value in kept.items()}
                continue
            scored = [replace(group, trajectories=_answered([group])) for group in several]
            if (divergence := (divergences or {}).get(author)) and any(group.trajectories for group in scored):
                found["kl"] = divergence(scored)
            metrics |= {prefix + name: value for name, value in found.items()}
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
    answered, drawn = _answered(greedy), _answered(sampled)
    failures = [t for group in (*greedy, *sampled) for t in group.trajectories if t.failure]
    found = {
        "accuracy": [float(t.correct) for t in final(answered) if t.correct is not None],
        "reward": [t.reward for t in answered],
        "completion_tokens": [float(t.completion_tokens) for t in answered],
        "prompts": [float(prompts)],
        "failures": [float(len(failures))],
    }
    rewards = sorted({name for t in answered for name in t.scores.keys() & t.components.keys()})
    if len(rewards) > 1:
        found |= {f"reward/{name}": [t.scores[name].value for t in answered if name in t.scores] for name in rewards}
    if settings.samples:
        found |= _over_samples([_judged(group) for group in sampled if _is_first(group)], settings, answers)
    audits = _audits(answered)
    found |= {f"audit/{name}": values for name, values in audits.items()}
    found |= {"sampled_reward": [t.reward for t in drawn]}
    found |= {f"sampled_audit/{name}": values for name, values in _audits(drawn).items()}
    errors = {"reward_error": found["reward"]} if audits else {}
    errors |= {f"audit_error/{name}": values for name, values in audits.items()}
    means = {name: sum(values) / len(values) for name, values in found.items() if values}
    for groups, votes in ((greedy, False), (sampled, True)):
        of_trees = rates(total(tallies(groups, answers, settings.answer_pattern)))
        means |= {name: value for name, value in of_trees.items() if ("maj@" in name) is votes}
    return means | {name: _error(values) for name, values in errors.items() if len(values) > 1}


def _answered(groups: Sequence[Group]) -> list[Trajectory]:
    return [t for group in groups for t in group.trajectories if t.failure is None]


def _audits(trajectories: Sequence[Trajectory]) -> dict[str, list[float]]:
    """The values of each reward of weight 0."""
    names = dict.fromkeys(name for t in trajectories for name in t.audits)
    return {name: [t.audits[name] for t in trajectories if name in t.audits] for name in names}


def _error(values: Sequence[float]) -> float:
    """The standard error of the values' mean."""
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def _over_samples(groups: list[Group], settings: Evaluation, answers: Answers | None) -> dict[str, list[float]]:
    """pass@k and maj@k of each group; a group with fewer than k judged samples has no pass@k."""
    found: dict[str, list[float]] = {}
    verdicts = [[bool(t.correct) for t in group.trajectories] for group in groups]
    for k in powers_up_to(settings.samples):
        found[f"pass@{k}"] = [pass_at_k(correct, k) for correct in verdicts if len(correct) >= k]
    votes = voted(groups, answers, settings.answer_pattern)
    most = [maj_at_k(given, correct) for given, correct in zip(votes, verdicts, strict=True) if given]
    return found | {f"maj@{settings.samples}": most}


def _is_first(group: Group) -> bool:
    """Whether the group's trajectories follow no other ones."""
    return all(one.parent is None for one in group.trajectories)


def _judged(group: Group) -> Group:
    judged = [t for t in group.trajectories if t.failure is None and t.correct is not None]
    return replace(group, trajectories=judged)

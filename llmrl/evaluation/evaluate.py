"""Accuracy on held-out prompts: greedy, and over samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from llmrl.evaluation.pass_at_k import maj_at_k, pass_at_k, powers_up_to
from llmrl.recipe import Evaluation
from llmrl.rollout.sampler import SamplingParams
from llmrl.types import Group, Prompt, Trajectory


class GroupSampler(Protocol):
    """Samples and scores groups, as the Collector does."""

    def sample(self, prompts: Sequence[Prompt], *, group_size: int, params: SamplingParams) -> list[Group]: ...


def evaluate(
    sampler: GroupSampler, prompts: Sequence[Prompt], settings: Evaluation, params: SamplingParams
) -> tuple[dict[str, float], list[Group]]:
    """Metrics under eval/, and the groups they were measured on.

    accuracy: greedy, one completion a prompt. pass@k, maj@k: over `settings.samples` samples. Trajectories whose
    verifier failed are left out and counted, never taken as wrong.
    """
    greedy = sampler.sample(prompts, group_size=1, params=_with(params, 0.0))
    scored = [t for group in greedy for t in _judged(group)]
    metrics = {
        "eval/accuracy": _mean([float(bool(t.correct)) for t in scored]),
        "eval/reward": _mean([t.reward for t in scored]),
        "eval/completion_tokens": _mean([t.completion_tokens for t in scored]),
        "eval/prompts": float(len(prompts)),
        "eval/failures": float(sum(t.failure is not None for group in greedy for t in group.trajectories)),
    }
    if not settings.samples:
        return metrics, greedy
    sampled = sampler.sample(prompts, group_size=settings.samples, params=_with(params, settings.temperature))
    whole = [_judged(group) for group in sampled]
    for k in powers_up_to(settings.samples):
        enough = [group for group in whole if len(group) >= k]
        metrics[f"eval/pass@{k}"] = _mean([pass_at_k([bool(t.correct) for t in group], k) for group in enough])
    voting = [group for group in whole if group]
    metrics[f"eval/maj@{settings.samples}"] = _mean(
        [
            maj_at_k([_answer(t, settings.answer_pattern) for t in group], [bool(t.correct) for t in group])
            for group in voting
        ]
    )
    return metrics, greedy + sampled


def _judged(group: Group) -> list[Trajectory]:
    return [t for t in group.trajectories if t.failure is None and t.correct is not None]


def _with(params: SamplingParams, temperature: float) -> SamplingParams:
    return SamplingParams(
        max_tokens=params.max_tokens,
        temperature=temperature,
        stop=params.stop,
        stop_token_ids=params.stop_token_ids,
        seed=params.seed,
    )


def _answer(trajectory: Trajectory, pattern: str | None) -> str:
    if pattern is None:
        return trajectory.text.strip()
    found = re.findall(pattern, trajectory.text)
    return str(found[-1]) if found else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0

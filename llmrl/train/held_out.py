"""The evaluation of a model in training on completions that held-out rows bring."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.data.packing import pack
from llmrl.evaluation.held_out_preferences import of_labels, of_pairs
from llmrl.ops.shared.comparisons import compared
from llmrl.ops.shared.steps import first_error_f1, first_error_shares, step_correct, step_verdicts
from llmrl.reward_model_combinations import labels_steps
from llmrl.train.preferences import pair_statistics
from llmrl.train.roles import Role
from llmrl.types import Group

GOOD = 0.5
"""A single completion with a larger reward than this is a good one."""


@dataclass(frozen=True)
class HeldOut:
    """Groups of written completions; categories: prompt id -> the part of the rows that it belongs to, if that has
    metrics of its own; at_once: groups that are packed together."""

    groups: Sequence[Group] = ()
    categories: Mapping[str, str] = field(default_factory=dict)
    at_once: int = 64

    def batches(self, author: str) -> Iterator[tuple[Sequence[Group], Batch]]:
        """The groups in parts, each with its batch."""
        for start in range(0, len(self.groups), self.at_once):
            groups = self.groups[start : start + self.at_once]
            yield groups, pack(groups, author)


def compare(role: Role, held_out: HeldOut) -> dict[str, float]:
    """Metrics under eval/ of the role's implicit reward, for all rows and for each category; every rank calls it.

    Completions of a row with different rewards are pairs; rows of a single one are compared with each other. Of a
    reward model of steps, its verdicts on the steps. Of a role that compares nothing, how likely the completions are.
    """
    if labels_steps(role.algorithm):
        return _of_steps(role, held_out)
    if not role.algorithm.compares:
        return _of_demonstrations(role, held_out)
    reward = role.algorithm.implicit_reward
    pairs: dict[str, list[dict[str, Tensor]]] = defaultdict(list)
    singles: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for groups, batch in held_out.batches(role.name):
        data = _measured(role, batch, reward.of)
        stats = pair_statistics(data, of=reward.of)
        of_pair = batch.group_ids[compared(data, ["chosen"])["chosen"]]
        rewards, labels = compared(data, [f"completion_{reward.of}", "completion_rewards"]).values()
        alone = torch.tensor([len(group.trajectories) == 1 for group in groups])[batch.group_ids] & labels.isfinite()
        parts = [held_out.categories.get(group.prompt.id, "") for group in groups]
        for name in dict.fromkeys(("", *parts)):
            own = torch.tensor([not name or part == name for part in parts])
            pairs[name].append({key: value[own[of_pair]] for key, value in stats.items()})
            chosen = alone & own[batch.group_ids]
            singles[name].append((rewards[chosen], labels[chosen] > GOOD))
    metrics: dict[str, float] = {}
    for name, of_part in pairs.items():
        found: dict[str, float] = {}
        joined = {key: torch.cat([part[key] for part in of_part]) for key in of_part[0]}
        if len(joined["preference_margin"]):
            found |= of_pairs(joined, scale=reward.scale)
        values, good = (torch.cat(tensors) for tensors in zip(*singles[name], strict=True))
        if len(values):
            found |= of_labels(values, good)
        prefix = f"eval/{name}/" if name else "eval/"
        metrics |= {prefix + key: value for key, value in found.items()}
    return metrics


def _of_demonstrations(role: Role, held_out: HeldOut) -> dict[str, float]:
    """eval/nll, the mean negative log-probability of a token in nats, for all rows and for each category."""
    sums: dict[str, tuple[float, float]] = {}
    for groups, batch in held_out.batches(role.name):
        logprobs = role.learner.measure(batch, "logprobs")["logprobs"]
        of_rows = -torch.where(batch.response_mask, logprobs, 0.0).double().sum(dim=1)
        parts = [held_out.categories.get(group.prompt.id, "") for group in groups]
        for name in dict.fromkeys(("", *parts)):
            own = torch.tensor([not name or part == name for part in parts])[batch.group_ids]
            total, tokens = sums.get(name, (0.0, 0.0))
            found = float(of_rows[own].sum()), float(batch.response_mask[own].sum())
            sums[name] = total + found[0], tokens + found[1]
    return {
        f"eval/{name}/nll" if name else "eval/nll": total / tokens for name, (total, tokens) in sums.items() if tokens
    }


def _of_steps(role: Role, held_out: HeldOut) -> dict[str, float]:
    """Metrics under eval/ of verdicts on labelled steps, for all rows and for each category."""
    totals: dict[str, tuple[float, float]] = {}
    for groups, batch in held_out.batches(role.name):
        scores = role.learner.measure(batch, "scores")["scores"]
        parts = [held_out.categories.get(group.prompt.id, "") for group in groups]
        for name in dict.fromkeys(("", *parts)):
            own = torch.tensor([not name or part == name for part in parts])[batch.group_ids]
            verdicts = step_verdicts(scores[own], batch.turn_rewards[own])
            agreed, labelled = step_correct(verdicts)[verdicts.labelled], verdicts.labelled
            shares = first_error_shares(verdicts) | {"step_accuracy": (float(agreed.sum()), float(labelled.sum()))}
            for key, share in shares.items():
                metric = f"{name}/{key}" if name else key
                totals[metric] = tuple(map(sum, zip(totals.get(metric, (0.0, 0.0)), share, strict=True)))  # pyright: ignore
    means = {key: part / whole for key, (part, whole) in totals.items() if whole}
    for name in dict.fromkeys(key.rpartition("/")[0] for key in list(means)):
        prefix = f"{name}/" if name else ""
        own_means = {key.removeprefix(prefix): value for key, value in means.items() if key.startswith(prefix)}
        means |= {prefix + key: value for key, value in first_error_f1(own_means).items()}
    return {f"eval/{key}": value for key, value in means.items()}


def _measured(role: Role, batch: Batch, of: str) -> dict[str, Tensor]:
    """The batch's fields with what the implicit reward is made of, without gradient."""
    name = role.algorithm.trained
    found = {**batch.data, name: role.learner.measure(batch, name)[name]}
    if of.endswith("log_ratios"):
        found["ref_logprobs"] = role.models["reference"].measure(batch, "logprobs")["logprobs"]
    return found

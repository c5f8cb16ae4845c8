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

    Completions of a row with different rewards are pairs; rows of a single one are compared with each other.
    """
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


def _measured(role: Role, batch: Batch, of: str) -> dict[str, Tensor]:
    """The batch's fields with what the implicit reward is made of, without gradient."""
    name = role.algorithm.trained
    found = {**batch.data, name: role.learner.measure(batch, name)[name]}
    if of.endswith("log_ratios"):
        found["ref_logprobs"] = role.models["reference"].measure(batch, "logprobs")["logprobs"]
    return found

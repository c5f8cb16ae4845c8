"""The updates of a critic that learns from a replay, before the step's credit is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llmrl.batch import Batch
from llmrl.data.packing import pack
from llmrl.rollout.sampler import derive_seed
from llmrl.spans import span
from llmrl.train.micro_batches import CreditedBatch, MetricSums
from llmrl.train.provide import provide
from llmrl.train.replay import Drawn, Replay
from llmrl.train.roles import Role
from llmrl.types import Group

NOT_OF_REPLAY = ("padding", "shared_tokens")
"""Metrics that a step has of the policy's passes."""


def learn_from_replay(
    role: Role, groups: Sequence[Group], *, tokenizer: Any, seed: int, steps_done: int, trains: bool
) -> dict[str, float]:
    """Add a step's trajectories to the critic's replay, and train the critic on what is drawn from it.

    trains: False where the critic has done its warm-up and is frozen. Returns metrics; none without a replay.
    """
    critic = role.critic
    if critic is None or critic.replay is None or critic.learner is None:
        return {}
    replay, sums, norms, ages = critic.replay, MetricSums(), [], []
    replay.add([one for group in groups for one in group.trajectories])
    training = critic.learner.training
    updates = training.updates_per_step * training.epochs_per_step if trains else 0
    for update in range(updates):
        drawn = replay.draw(derive_seed(seed, "replay", update))
        batch, drawn_groups, found = _batch_of(replay, drawn, role.name)
        known = {"groups": drawn_groups, "tokenizer": tokenizer, "seed": seed, "steps_done": steps_done}
        batch = provide(role, batch, fields=role.algorithm.measured_by_critic, **known)
        mini = CreditedBatch(batch, role.algorithm.critic_credit(batch, role.controlled), {})
        with span("critic"):
            done = critic.update(role.algorithm, mini, sums)
        norms.append(done.grad_norm)
        ages.append(float((steps_done - batch.policy_version).clamp(min=0).float().mean()))
        if done.errors is not None:
            known_at = role.algorithm.value_targets(batch, mini.credit)
            replay.prioritise(*_errors_of(found, batch, done.errors, known_at))
    metrics = {"replay/trajectories": float(replay.size)}
    if updates:
        means = sums.means(role.learner.ranks, updates=updates)
        metrics |= {name: value for name, value in means.items() if name not in NOT_OF_REPLAY}
        metrics |= {"critic_grad_norm": sum(norms) / updates, "replay/staleness": sum(ages) / updates}
    return metrics


Units = dict[tuple[int, int], int]
"""The units that were drawn, by the place of their trajectory in the batch, and their turn."""


def _batch_of(replay: Replay, drawn: Sequence[Drawn], author: str) -> tuple[Batch, list[Group], Units]:
    """The batch of the trajectories whose units were drawn, with what each token counts."""
    records = {record: place for place, record in enumerate(dict.fromkeys(one.record for one in drawn))}
    trajectories = [replay.trajectory(record) for record in records]
    groups = [Group(one.prompt, [one], author) for one in trajectories]
    batch = pack(groups, author)
    found = {(records[one.record], one.turn): one.unit for one in drawn}
    turns = int(batch.turn_ids.max()) + 1
    table = torch.zeros(len(records), turns)
    for one in drawn:
        table[records[one.record], slice(None) if one.turn < 0 else one.turn] += one.weight * len(found) / len(drawn)
    weights = table[batch.trajectory_ids].gather(1, batch.turn_ids.clamp(min=0)) * batch.response_mask
    return batch.with_(replay_weights=weights), groups, found


def _errors_of(found: Units, batch: Batch, errors: torch.Tensor, known: torch.Tensor) -> tuple[list[int], list[float]]:
    """The units with a target, and the mean error of each one's tokens that have one."""
    units, means = [], []
    for (place, turn), unit in found.items():
        rows = batch.trajectory_ids.eq(place).unsqueeze(1) & known
        of_unit = rows if turn < 0 else rows & batch.turn_ids.eq(turn)
        if of_unit.any():
            units.append(unit)
            means.append(float(errors[of_unit].mean()))
    return units, means

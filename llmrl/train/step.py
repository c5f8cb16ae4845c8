"""The update of one training step: give credit, cut the batch, train policy and critic.

Every rank holds the whole batch and cuts it in the same way, so credit and the denominators of means are global; only
forward and backward passes are divided among ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.engines.engine import Update
from llmrl.errors import RunStopped
from llmrl.ops.shared.diagnostics import explained_variance, mismatch, repeated_states
from llmrl.ops.shared.steps import first_error_f1
from llmrl.recipe import Training
from llmrl.spans import span
from llmrl.train.learner import Objective
from llmrl.train.micro_batches import CreditedBatch, MetricSums
from llmrl.train.objectives import PolicyObjective, ValueObjective
from llmrl.train.preferences import PreferenceObjective
from llmrl.train.provide import vectors_of
from llmrl.train.roles import Role, numbers_of
from llmrl.types import Credit

Metrics = dict[str, float]


def update(
    role: Role, batch: Batch, *, seed: int, max_mismatch: float | None = None, step: int | None = None
) -> Metrics:
    """Train one role on a batch that has all its fields: credit, then passes and optimizer steps; returns its metrics.

    step: how many steps the stage has done, for a critic's warm-up; None: the warm-up is over. Raises RunStopped,
    before the weights change, when trainer and sampler disagree by more than `max_mismatch`.
    """
    return update_together([(role, batch)], seed=seed, max_mismatch=max_mismatch, step=step)[0]


def update_together(
    roles: Sequence[tuple[Role, Batch]], *, seed: int, max_mismatch: float | None = None, step: int | None = None
) -> list[Metrics]:
    """Train the roles that share one model on their batches: their losses add up in every optimizer step."""
    steps = [RoleStep.of(role, batch, seed=seed, max_mismatch=max_mismatch, step=step) for role, batch in roles]
    for minis in zip_longest(*(one.minibatches(seed) for one in steps)):
        own = [(one, mini) for one, mini in zip(steps, minis, strict=True) if mini is not None]
        backward = [(one, mini) for one, mini in own if one.trains_policy or one.shared_critic]
        for one, mini in backward:
            one.accumulate(mini, last=one is backward[-1][0])
        if backward:
            done = backward[0][0].role.learner.step()
            for one, _ in backward:
                one.moved(done)
        for one, _ in own:
            one.updates += 1
    for one in steps:
        one.train_critic(seed)
    return [one.finish() for one in steps]


@dataclass
class RoleStep:
    """One role's part of a training step. updates, critic_updates: optimizer steps done, the latter of a critic that
    has a learner of its own."""

    role: Role
    whole: CreditedBatch
    trains_policy: bool
    trains_critic: bool
    max_mismatch: float | None
    metrics: Metrics
    sums: MetricSums = field(default_factory=MetricSums)
    norms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    updates: int = 0
    critic_updates: int = 0

    @classmethod
    def of(cls, role: Role, batch: Batch, *, seed: int, max_mismatch: float | None, step: int | None) -> RoleStep:
        """The role's step with the credit of the batch, before any weight changes."""
        with span("credit"):
            credit = role.algorithm.credit(batch, role.controlled)
            fixed = role.algorithm.fixed_weights(batch, credit.advantages, role.controlled)
        whole = CreditedBatch(batch, credit, fixed)
        metrics = {"trajectories": float(len(batch.units))} | _of_credit(batch, credit)
        for name, vector in vectors_of(batch).items():
            metrics |= numbers_of(name, vector)
        logprobs = batch.get("old_logprobs")
        if logprobs is None and role.learner.draws_dropout and batch.rollout_logprobs.any():
            logprobs = role.learner.measure(batch, "logprobs")["logprobs"]
        if logprobs is not None:
            metrics |= _mismatch(batch, logprobs, max_mismatch)
        policy, critic = what_trains(role, step)
        beside = critic and not (role.critic and role.critic.replay)
        return cls(role, whole, policy, beside, max_mismatch, metrics)

    @property
    def shared_critic(self) -> bool:
        """Whether the critic that is trained shares the policy's backbone."""
        return self.trains_critic and self.role.critic is not None and self.role.critic.learner is None

    def minibatches(self, seed: int) -> Iterator[CreditedBatch]:
        """The trajectories of each optimizer step."""
        own = self.role.learner.training
        return (self.whole.rows(rows) for rows in _minibatches(self.whole.batch, self.role, own, seed))

    def accumulate(self, mini: CreditedBatch, *, last: bool) -> None:
        """The gradient of the policy's loss, and of the critic's if it shares the backbone."""
        if self.shared_critic and self.role.critic:
            self.role.critic.watch(self.role.learner).begin()
        role, fresh = self.role, self.updates == 0
        known = role.algorithm, role.learner, mini, role.controlled, self.sums
        objectives: list[Objective] = []
        if role.algorithm.trains_tokens or not self.trains_policy:
            objectives.append(PolicyObjective.of(*known, fresh=fresh, active=self.trains_policy))
        if role.algorithm.compares and self.trains_policy:
            objectives.append(PreferenceObjective.of(*known, fresh=fresh))
        if self.shared_critic and role.critic:
            objectives.append(ValueObjective.of(role.algorithm, mini, weight=role.critic.settings.weight))
        said = role.learner.accumulate(mini, objectives, self.sums, last=last)
        only_update = "old_logprobs" not in mini.batch and not role.learner.draws_dropout
        if only_update and "logprobs" in said:
            self.metrics |= _mismatch(mini.batch, said["logprobs"], self.max_mismatch)

    def moved(self, done: Update) -> None:
        """Note an optimizer step of the policy's learner."""
        self.norms["grad_norm"].append(done.grad_norm)
        self.metrics["learning_rate"] = done.learning_rate
        if self.shared_critic and self.role.critic:
            self.role.critic.watch(self.role.learner).after(done)

    def train_critic(self, seed: int) -> None:
        """The optimizer steps of a critic that has a learner of its own."""
        critic = self.role.critic
        if not self.trains_critic or critic is None or critic.learner is None:
            return
        for rows in _minibatches(self.whole.batch, self.role, critic.learner.training, seed):
            done = critic.update(self.role.algorithm, self.whole.rows(rows), self.sums)
            self.norms["critic_grad_norm"].append(done.grad_norm)
            self.critic_updates += 1

    def finish(self) -> Metrics:
        """The step's metrics."""
        of_critic = {"value_loss": self.critic_updates} if self.critic_updates else {}
        means = self.sums.means(self.role.learner.ranks, updates=self.updates, of=of_critic)
        means |= first_error_f1(means)
        return self.metrics | means | {name: sum(found) / len(found) for name, found in self.norms.items()}


def what_trains(role: Role, step: int | None) -> tuple[bool, bool]:
    """Whether the policy, and whether the critic, is trained after `step` steps."""
    if role.critic is None:
        return True, False
    settings = role.critic.settings
    warming = step is not None and step < settings.warmup_steps
    return not warming, warming or not settings.frozen


def _minibatches(batch: Batch, role: Role, training: Training, seed: int) -> Iterator[Tensor]:
    """Row indices of each optimizer step of a learner; with several, the rows are shuffled anew every pass.

    A loss that compares the trajectories of a group gets whole groups.
    """
    updates, epochs = training.updates_per_step, training.epochs_per_step
    generator = torch.Generator().manual_seed(seed)
    if role.algorithm.is_coupled or role.algorithm.compares:
        units = [batch.group_ids.eq(group).nonzero()[:, 0] for group in batch.group_ids.unique()]
    else:
        units = batch.units
    for _ in range(epochs):
        order = torch.randperm(len(units), generator=generator) if updates > 1 else torch.arange(len(units))
        for part in order.tensor_split(updates):
            if len(part):
                yield torch.cat([units[unit] for unit in part.tolist()])


def _of_credit(batch: Batch, credit: Credit) -> Metrics:
    picked = credit.advantages[batch.response_mask]
    metrics = {"advantage_std": float(picked.std(correction=0)), "advantage_max": float(picked.abs().max())}
    if credit.returns is not None and "values" in batch:
        targets = batch.response_mask & credit.returns.isfinite()
        metrics["value"] = float(batch.values[targets].mean())
        metrics["explained_variance"] = float(explained_variance(batch.values, credit.returns, targets))
    if "state_ids" in batch:
        whole = batch.joined().batch
        metrics |= repeated_states(
            whole.response_mask, whole.turn_ids, whole.state_ids, whole.action_ids, whole.group_ids
        )
    return metrics


def _mismatch(batch: Batch, logprobs: Tensor, limit: float | None) -> Metrics:
    """How far the trainer's log-probabilities are from the sampler's, before any correction."""
    if not batch.rollout_logprobs.any():  # demonstrations were not sampled
        return {}
    own = batch.get("from_policy")  # the sampler said nothing of what others wrote
    mask = batch.response_mask if own is None else batch.response_mask & own[:, None]
    measured = mismatch(logprobs, batch.rollout_logprobs, mask)
    found = {name: float(value) for name, value in measured.items()}
    if limit is not None and not found["mismatch_mean"] <= limit:
        raise RunStopped(
            f"trainer and sampler disagree: mean |log-probability difference| {found['mismatch_mean']:.2e} is over "
            f"rollout.max_mismatch {limit:.2e}; stopped before the update"
        )
    return found

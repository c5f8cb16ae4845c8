"""The update of one training step: give credit, cut the batch, train policy and critic.

Every rank holds the whole batch and cuts the same schedule from it, so credit and the denominators of means are
global by construction; only forward and backward passes are divided among ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llmrl.algorithm import batch_data, coupled_coefficients
from llmrl.errors import RunStopped
from llmrl.ops.regularizers import kl_k1, kl_k2, kl_k3
from llmrl.ops.shared.diagnostics import explained_variance, mismatch
from llmrl.train.annotate import BEHIND, inputs
from llmrl.train.gradients import reward_influences
from llmrl.train.passes import SPARE, Sums, join, over_ranks, plan
from llmrl.train.prepared import Prepared
from llmrl.train.roles import Role
from llmrl.types import Batch, Credit, TokenLoss

Metrics = dict[str, float]


def update(
    role: Role, batch: Batch, *, seed: int, max_mismatch: float | None = None, step: int | None = None
) -> Metrics:
    """Train on an annotated batch: credit, then its passes and optimizer steps; returns the step's metrics.

    step: how many steps the stage has done, for a critic's warm-up; none: it is over. Raises RunStopped, before the
    weights change, when trainer and sampler disagree by more than `max_mismatch`.
    """
    extra = {name: value.cpu() for name, value in role.controlled.items()}
    credit = role.algorithm.credit(batch, extra)
    fixed = role.algorithm.fixed_weights(batch, credit.advantages, extra)
    prepared = Prepared(batch, credit, fixed, torch.zeros_like(batch.rewards))
    trains_policy, trains_critic = what_trains(role, step)
    metrics = {"trajectories": float(len(batch))} | _of_credit(batch, credit)
    if "reward_influence" in role.controllers:
        metrics |= reward_influences(role, batch)
    if batch.old_logprobs is not None:
        metrics |= _mismatch(batch, batch.old_logprobs, max_mismatch)
    sums, norms = Sums(), defaultdict[str, list[float]](list)
    minibatches = list(_minibatches(batch, role, seed))
    for number, rows in enumerate(minibatches):
        mini = prepared.rows(rows)
        mini = replace(mini, shares=role.algorithm.shares(mini.batch))
        if trains_policy or (trains_critic and _is_shared(role)):
            coefficients = _coupled(role, mini, sums, first=number == 0) if trains_policy else None
            seen = _accumulate(role, mini, sums, coefficients, policy=trains_policy, critic=trains_critic)
            if batch.old_logprobs is None:  # the only update of this batch
                metrics |= _mismatch(mini.batch, seen, max_mismatch)
            done = role.engine.step()
            norms["grad_norm"].append(done.grad_norm)
            metrics["learning_rate"] = done.learning_rate
        if trains_critic and not _is_shared(role):
            norms["critic_grad_norm"].append(_update_critic(role, mini, sums))
    metrics |= sums.means(role.ranks, updates=len(minibatches))
    return metrics | {name: sum(found) / len(found) for name, found in norms.items()}


def what_trains(role: Role, step: int | None) -> tuple[bool, bool]:
    """Whether the policy, and whether the critic, is trained after `step` steps."""
    if role.critic is None:
        return True, False
    settings = role.critic.settings
    warming = step is not None and step < settings.warmup_steps
    return not warming, warming or not settings.frozen


def _accumulate(
    role: Role, mini: Prepared, sums: Sums, coefficients: Tensor | None, *, policy: bool, critic: bool
) -> Tensor:
    """Forward and backward over one optimizer step's trajectories; returns their log-probabilities: [N, T].

    policy, critic: which losses are in it; a critic that has its own engine is not.
    """
    cuts = plan(role, mini.batch)
    wanted = set(BEHIND) & role.algorithm.needs
    shared = critic and _is_shared(role)
    value_shares = _value_shares(role, mini) if shared else None
    parts = []
    for index, rows in enumerate(cuts):
        picked = rows if len(rows) else SPARE
        part = mini.rows(picked).to(role.engine.device)
        data = batch_data(part.batch)
        found = role.engine.forward(
            *inputs(part.batch), wanted=frozenset(wanted | ({"value_outputs"} if shared else set())), known=data
        )
        width = part.shares.shape[1]
        cut = None if coefficients is None else coefficients[picked, :width].to(role.engine.device)
        result = _objective(role, part, data | found, cut) if policy else TokenLoss(found["logprobs"] * 0.0)
        loss = result.loss.sum()
        if value_shares is not None and role.critic:
            value = _value_loss(role, part.batch, part.credit, found["value_outputs"])
            weighted = value.loss * value_shares[picked, :width].to(role.engine.device)
            loss = loss + role.critic.settings.weight * weighted.sum()
            if len(rows):
                _add_value(role, sums, value, weighted, part)
        role.engine.backward(loss * (len(rows) > 0), last=index == len(cuts) - 1)
        if len(rows):
            parts.append((rows, {"logprobs": found["logprobs"].detach().cpu()}))
            sums.add("loss", loss.detach(), counted=False)
            stats = result.stats | {"entropy": found["entropy"].detach()}
            sums.add_tokens(stats | _reference_kl(part.batch, found["logprobs"]), part.batch.response_mask)
    return join(role.ranks, parts, *mini.batch.token_ids.shape)["logprobs"]


def _objective(role: Role, part: Prepared, data: dict[str, Any], coefficients: Tensor | None) -> TokenLoss:
    """A micro-batch's part of the step's loss; where nobody measured the old policy, it is the current one."""
    if part.batch.old_logprobs is None:
        data["old_logprobs"] = data["logprobs"].detach()
    if part.batch.old_entropy is None:
        data["old_entropy"] = data["entropy"].detach()
    data |= {"advantages": part.credit.advantages} | role.controlled
    return role.algorithm.objective(data, part.shares, part.fixed, coefficients)


def _coupled(role: Role, mini: Prepared, sums: Sums, *, first: bool) -> Tensor | None:
    """Of a loss that couples trajectories, its gradient with respect to this update's log-probabilities: [N, T].

    Before the batch's first update these are the old ones; later they are measured anew.
    """
    if not role.algorithm.is_coupled:
        return None
    logprobs = mini.batch.old_logprobs
    if not first or logprobs is None:
        found = over_ranks(role, mini.batch, lambda micro: {"logprobs": role.measure(*inputs(micro))["logprobs"]})
        logprobs = found["logprobs"]
    extra = {name: value.cpu() for name, value in role.controlled.items()}
    coefficients, result = coupled_coefficients(role.algorithm, mini.batch, logprobs, mini.credit.advantages, extra)
    if role.ranks.is_first:  # every rank has the whole of it
        sums.add("policy_loss", result.loss, counted=False)
        sums.add_tokens(result.stats, mini.batch.response_mask)
    return coefficients


def _update_critic(role: Role, mini: Prepared, sums: Sums) -> float:
    """One optimizer step of a critic that has its own engine; returns the gradient's norm."""
    assert role.critic is not None and role.critic.engine is not None
    engine, shares = role.critic.engine, _value_shares(role, mini)
    cuts = plan(role, mini.batch)
    for index, rows in enumerate(cuts):
        picked = rows if len(rows) else SPARE
        part = mini.rows(picked).to(engine.device)
        outputs = engine.forward(*inputs(part.batch))["value_outputs"]
        value = _value_loss(role, part.batch, part.credit, outputs)
        weighted = value.loss * shares[picked, : outputs.shape[1]].to(engine.device)
        engine.backward(weighted.sum() * (len(rows) > 0), last=index == len(cuts) - 1)
        if len(rows):
            _add_value(role, sums, value, weighted, part)
    return engine.step().grad_norm


def _value_loss(role: Role, batch: Batch, credit: Credit, outputs: Tensor) -> TokenLoss:
    """The critic's loss, 0 where it has no target."""
    data = batch_data(batch) | {"outputs": outputs, "returns": credit.returns}
    result: TokenLoss = role.algorithm.value_loss(data)
    return TokenLoss(torch.where(role.algorithm.value_targets(batch, credit), result.loss, 0.0), result.stats)


def _value_shares(role: Role, mini: Prepared) -> Tensor:
    """What each token's value loss counts in the mean over the tokens that have a target: [N, T]."""
    targets = role.algorithm.value_targets(mini.batch, mini.credit)
    return role.algorithm.shares(replace(mini.batch, response_mask=targets))


def _add_value(role: Role, sums: Sums, value: TokenLoss, weighted: Tensor, part: Prepared) -> None:
    sums.add("value_loss", weighted.detach(), counted=False)
    sums.add_tokens(value.stats, role.algorithm.value_targets(part.batch, part.credit))


def _is_shared(role: Role) -> bool:
    return role.critic is not None and role.critic.engine is None


def _minibatches(batch: Batch, role: Role, seed: int) -> Iterator[Tensor]:
    """Row indices of each optimizer step; with several, the rows are shuffled anew every pass.

    A loss that couples the trajectories of a group gets whole groups.
    """
    updates, epochs = role.training.updates_per_step, role.training.epochs_per_step
    generator = torch.Generator().manual_seed(seed)
    if role.algorithm.is_coupled:
        units = [batch.group_ids.eq(group).nonzero()[:, 0] for group in batch.group_ids.unique()]
    else:
        units = list(torch.arange(len(batch))[:, None])
    for _ in range(epochs):
        order = torch.randperm(len(units), generator=generator) if updates > 1 else torch.arange(len(units))
        for part in order.tensor_split(updates):
            if len(part):
                yield torch.cat([units[unit] for unit in part.tolist()])


def _of_credit(batch: Batch, credit: Credit) -> Metrics:
    picked = credit.advantages[batch.response_mask]
    metrics = {"advantage_std": float(picked.std(correction=0)), "advantage_max": float(picked.abs().max())}
    if credit.returns is not None and batch.values is not None:
        targets = batch.response_mask & credit.returns.isfinite()
        metrics["value"] = float(batch.values[targets].mean())
        metrics["explained_variance"] = float(explained_variance(batch.values, credit.returns, targets))
    return metrics


def _reference_kl(batch: Batch, logprobs: Tensor) -> dict[str, Tensor]:
    """The three estimates of the distance to the reference, where there is one."""
    if batch.ref_logprobs is None:
        return {}
    estimates = {"kl_k1": kl_k1, "kl_k2": kl_k2, "kl_k3": kl_k3}
    return {name: estimate(logprobs.detach(), batch.ref_logprobs) for name, estimate in estimates.items()}


def _mismatch(batch: Batch, logprobs: Tensor, limit: float | None) -> Metrics:
    """How far the trainer's log-probabilities are from the sampler's, before any correction."""
    if not batch.rollout_logprobs.any():  # demonstrations were not sampled
        return {}
    measured = mismatch(logprobs, batch.rollout_logprobs, batch.response_mask)
    found = {name: float(value) for name, value in measured.items()}
    if limit is not None and not found["mismatch_mean"] <= limit:
        raise RunStopped(
            f"trainer and sampler disagree: mean |log-probability difference| {found['mismatch_mean']:.2e} is over "
            f"rollout.max_mismatch {limit:.2e}; stopped before the update"
        )
    return found

"""One training step: annotate the batch, give credit, update the weights.

Every rank holds the whole batch and cuts the same schedule from it, so credit and the denominators of means are
global by construction; only forward and backward passes are divided among ranks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from llmrl.algorithm import batch_data
from llmrl.data.packing import schedule
from llmrl.errors import RunStopped
from llmrl.ops.diagnostics import mismatch
from llmrl.train.roles import Role
from llmrl.types import Batch

Metrics = dict[str, float]


def annotate(role: Role, batch: Batch) -> Batch:
    """Add exactly the log-probabilities that the algorithm reads.

    old_logprobs are left out when the batch gives one update and the advantage does not read them: then they equal
    the training pass's own log-probabilities, which `update` uses, and a forward pass is saved.
    """
    updates = role.training.updates_per_step * role.training.epochs_per_step
    if role.algorithm.credit_needs_logprobs or updates > 1:
        batch = replace(batch, old_logprobs=_over_ranks(role, batch, role.logprobs))
    if "ref_logprobs" in role.algorithm.needs:
        batch = replace(batch, ref_logprobs=_over_ranks(role, batch, role.ref_logprobs))
    return batch


def update(role: Role, batch: Batch, *, seed: int, max_mismatch: float | None = None) -> Metrics:
    """Train on an annotated batch: credit, then its passes and optimizer steps; returns the step's metrics.

    Raises RunStopped, before the weights change, when trainer and sampler disagree by more than `max_mismatch`.
    """
    credit = role.algorithm.credit(batch)
    metrics: Metrics = {}
    sums, grad_norms = _Sums(), []
    if batch.old_logprobs is not None:
        metrics |= _mismatch(batch, batch.old_logprobs, max_mismatch)
    for rows in _minibatches(batch, role, seed):
        mini = batch.rows(rows)
        advantages = credit.advantages[rows, : mini.token_ids.shape[1]]
        seen = _accumulate(role, mini, advantages, sums)
        if batch.old_logprobs is None:  # the only update of this batch
            metrics |= _mismatch(mini, seen, max_mismatch)
        done = role.engine.step()
        grad_norms.append(done.grad_norm)
        metrics["learning_rate"] = done.learning_rate
    metrics |= sums.means(role)
    metrics |= {"loss": metrics["loss"] / len(grad_norms), "grad_norm": sum(grad_norms) / len(grad_norms)}
    picked = credit.advantages[batch.response_mask]
    metrics |= {"advantage_std": float(picked.std(correction=0)), "advantage_max": float(picked.abs().max())}
    return metrics


def _accumulate(role: Role, mini: Batch, advantages: Tensor, sums: _Sums) -> Tensor:
    """Forward and backward over one optimizer step's trajectories; returns their log-probabilities: [N, T]."""
    weights = role.algorithm.token_weights(mini)
    plan = _plan(role, mini)
    seen = torch.zeros_like(mini.rollout_logprobs)
    for index, rows in enumerate(plan):
        micro, counted = _micro_batch(role, mini, rows)
        width = micro.token_ids.shape[1]
        logprobs, entropy = role.engine.forward(micro.token_ids, micro.attention_mask, micro.response_mask)
        data = batch_data(micro) | {"logprobs": logprobs, "entropy": entropy}
        data["advantages"] = advantages[rows if counted else [0], :width].to(role.engine.device)
        if micro.old_logprobs is None:
            data["old_logprobs"] = logprobs.detach()
        result = role.algorithm.token_loss(data)
        share = weights[rows if counted else [0], :width].to(role.engine.device) * counted
        # the product is zero off the response, but a loss there may be infinite: 0 x inf would be nan
        loss = (torch.where(micro.response_mask, result.loss, 0.0) * share).sum()
        role.engine.backward(loss, last=index == len(plan) - 1)
        if counted:
            seen[rows, :width] = logprobs.detach().cpu()
            sums.add("loss", loss.detach(), counted=False)
            stats = result.stats | {"entropy": entropy.detach()}
            for name, value in stats.items():
                sums.add(name, value[micro.response_mask])
    return _join(role, seen, plan)


def _over_ranks(role: Role, batch: Batch, forward: Callable[..., Tensor]) -> Tensor:
    """`forward` over all rows, each rank its share: [N, T] on every rank."""
    plan = _plan(role, batch)
    out = torch.zeros_like(batch.rollout_logprobs)
    for rows in plan:
        micro, counted = _micro_batch(role, batch, rows)
        found = forward(micro.token_ids, micro.attention_mask, micro.response_mask)
        if counted:
            out[rows, : found.shape[1]] = found.cpu()
    return _join(role, out, plan)


def _plan(role: Role, batch: Batch) -> list[Tensor]:
    limit = role.training.tokens_per_micro_batch
    return schedule(batch.lengths, ranks=role.ranks.size, max_tokens=limit)[role.ranks.rank]


def _micro_batch(role: Role, batch: Batch, rows: Tensor) -> tuple[Batch, bool]:
    """The rows on the engine's device; a spare micro-batch runs row 0 and does not count."""
    micro = batch.rows(rows if len(rows) else torch.tensor([0]))
    on_device = {name: value.to(role.engine.device) for name, value in batch_data(micro).items() if value is not None}
    return replace(micro, **on_device), len(rows) > 0


def _join(role: Role, partial: Tensor, plan: list[Tensor]) -> Tensor:
    """Each rank's rows put together: [N, T] on every rank."""
    rows = torch.cat(plan)
    whole = torch.zeros_like(partial)
    for index, values in role.ranks.gather((rows, partial[rows]), "collecting log-probabilities"):
        whole[index] = values
    return whole


def _minibatches(batch: Batch, role: Role, seed: int) -> Iterator[Tensor]:
    """Row indices of each optimizer step; with several, the rows are shuffled anew every pass."""
    updates, epochs = role.training.updates_per_step, role.training.epochs_per_step
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        rows = torch.arange(len(batch))
        if updates > 1:
            rows = rows[torch.randperm(len(batch), generator=generator)]
        yield from (part for part in rows.tensor_split(updates) if len(part))


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


class _Sums:
    """Sums and counts of per-token statistics, joined over ranks into means."""

    def __init__(self) -> None:
        self._totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, values: Tensor, *, counted: bool = True) -> None:
        """Add values to a mean, or, where they are not counted, to a plain sum."""
        self._totals[name][0] += float(values.sum())
        self._totals[name][1] += values.numel() if counted else 0

    def means(self, role: Role) -> Metrics:
        parts = role.ranks.gather(dict(self._totals), "adding up metrics")
        names = sorted({name for part in parts for name in part})
        means = {}
        for name in names:
            total = sum(part[name][0] for part in parts if name in part)
            count = sum(part[name][1] for part in parts if name in part)
            means[name] = total / count if count else total
        return means

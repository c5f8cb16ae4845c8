"""The losses that a Learner takes the gradient of, bound to the trajectories of one optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmrl.algorithm import Algorithm, with_old_as_current
from llmrl.axes import OF_CRITIC
from llmrl.batch import Batch
from llmrl.ops.regularizers import kl_k1, kl_k2, kl_k3
from llmrl.train.learner import Learner, Loss
from llmrl.train.micro_batches import CreditedBatch, MetricSums, Outputs
from llmrl.types import Credit, TokenLoss


@dataclass(frozen=True)
class PolicyObjective:
    """An Algorithm's policy loss and regularizers.

    shares: each token's weight in the mean over the optimizer step's trajectories. weights: the token weights that are
    computed for all of them at once. coefficients: the gradient of a coupled loss with respect to the
    log-probabilities. controlled: the controllers' outputs. active: False while only a critic that shares the policy's
    backbone is trained.
    """

    algorithm: Algorithm
    shares: Tensor
    weights: Mapping[str, Tensor]
    coefficients: Tensor | None
    controlled: Mapping[str, Tensor]
    active: bool = True

    @classmethod
    def of(
        cls,
        algorithm: Algorithm,
        learner: Learner,
        mini: CreditedBatch,
        controlled: Mapping[str, Tensor],
        sums: MetricSums,
        *,
        fresh: bool,
        active: bool = True,
    ) -> PolicyObjective:
        """The objective of an update; what reads all of it at once needs its log-probabilities first, and a coupled
        loss adds its metrics to `sums`.

        fresh: before the batch's first update, when the old log-probabilities are the current ones.
        """
        weights, coefficients = mini.fixed, None
        if algorithm.reads_whole_updates and active:
            logprobs = mini.batch.get("old_logprobs") if fresh else None
            if logprobs is None:
                logprobs = learner.measure(mini.batch, "logprobs")["logprobs"]
            known = mini.batch, logprobs, mini.credit.advantages, controlled
            weights = weights | algorithm.update_weights(*known)
            if algorithm.is_coupled:
                coefficients, loss = coupled_coefficients(algorithm, *known)
                if learner.ranks.is_first:  # every rank has the whole of it
                    sums.add("policy_loss", loss.loss)
                    sums.add_tokens(loss.stats, mini.batch.response_mask)
        return cls(algorithm, algorithm.shares(mini.batch), weights, coefficients, controlled, active)

    @property
    def wanted(self) -> frozenset[str]:
        return self.algorithm.wanted | {"entropy"}  # a metric of every run

    def __call__(self, part: CreditedBatch, rows: Tensor, found: Outputs) -> Loss:
        device, width = found["logprobs"].device, found["logprobs"].shape[1]
        if self.active:
            cut = None if self.coefficients is None else self.coefficients[rows, :width].to(device)
            controlled = {name: value.to(device) for name, value in self.controlled.items()}
            weights = {name: weight[rows, :width].to(device) for name, weight in self.weights.items()}
            data = {**part.batch.data, **found, "advantages": part.credit.advantages, **controlled}
            result = self.algorithm.objective(data, self.shares[rows, :width].to(device), weights, cut)
        else:
            result = TokenLoss(found["logprobs"] * 0.0)
        stats = result.stats | {"entropy": found["entropy"].detach()} | _reference_kl(part.batch, found["logprobs"])
        return Loss(result.loss.sum(), {}, stats, part.batch.response_mask)


@dataclass(frozen=True)
class ValueObjective:
    """A critic's loss, 0 where it has no target. shares: as in PolicyObjective, over the tokens with a target; weight:
    of the loss of a critic that shares the policy's backbone."""

    algorithm: Algorithm
    shares: Tensor
    weight: float = 1.0

    @property
    def wanted(self) -> frozenset[str]:
        return frozenset(f"value_{name}" for name in OF_CRITIC & set(self.algorithm.value_loss.data))

    @classmethod
    def of(cls, algorithm: Algorithm, mini: CreditedBatch, *, weight: float = 1.0) -> ValueObjective:
        """Bound to the trajectories of an optimizer step."""
        targets = algorithm.value_targets(mini.batch, mini.credit)
        shares = algorithm.shares(mini.batch.with_(response_mask=targets))
        drawn = mini.batch.get("replay_weights")
        return cls(algorithm, shares if drawn is None else shares * drawn, weight)

    def __call__(self, part: CreditedBatch, rows: Tensor, found: Outputs) -> Loss:
        targets = self.algorithm.value_targets(part.batch, part.credit)
        value = value_loss(self.algorithm, part.batch, part.credit, found)
        weighted = value.loss * self.shares[rows, : targets.shape[1]].to(targets.device)
        said = {name: value.stats[name] for name in ("value_error",) if name in value.stats}
        return Loss(self.weight * weighted.sum(), {"value_loss": weighted.detach()}, value.stats, targets, said=said)


def coupled_coefficients(
    algorithm: Algorithm, mini: Batch, logprobs: Tensor, advantages: Tensor, extra: Mapping[str, Tensor]
) -> tuple[Tensor, TokenLoss]:
    """The gradient of a coupled policy loss with respect to an update's log-probabilities, and the loss: [N, T].

    sum(coefficients * logprobs) has the loss's gradient, and can be summed over any division into micro-batches.
    """
    assert algorithm.policy_loss is not None
    leaf = logprobs.detach().clone().requires_grad_()
    data = with_old_as_current({**mini.data, "logprobs": leaf, "advantages": advantages, **extra})
    if "log_ratio" in algorithm.policy_loss.data:
        data["log_ratio"] = algorithm.log_ratio(data)
    with torch.enable_grad():
        result: TokenLoss = algorithm.policy_loss(data)
        total = torch.where(mini.response_mask, result.loss, 0.0).sum()
        (coefficients,) = torch.autograd.grad(total, leaf)
    return coefficients, replace(result, loss=result.loss.detach())


def value_loss(algorithm: Algorithm, batch: Batch, credit: Credit, found: Outputs) -> TokenLoss:
    """A critic's loss of each token, 0 where it has no target: [N, T]."""
    outputs = {name: found[f"value_{name}"] for name in OF_CRITIC if f"value_{name}" in found}
    known = {**batch.data, **outputs, "advantages": credit.advantages, "returns": credit.returns}
    result: TokenLoss = algorithm.value_loss(known)
    return TokenLoss(torch.where(algorithm.value_targets(batch, credit), result.loss, 0.0), result.stats)


def _reference_kl(batch: Batch, logprobs: Tensor) -> dict[str, Tensor]:
    """The three estimates of the distance to the reference, where there is one."""
    reference = batch.get("ref_logprobs")
    if reference is None:
        return {}
    estimates = {"kl_k1": kl_k1, "kl_k2": kl_k2, "kl_k3": kl_k3}
    return {name: estimate(logprobs.detach(), reference) for name, estimate in estimates.items()}

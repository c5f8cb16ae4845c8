"""The objective of preference losses, bound to the trajectories of one optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.algorithm import Algorithm, with_old_as_current
from llmrl.batch import Batch
from llmrl.fields import COMPARED, names
from llmrl.ops.shared.comparisons import compared, outcomes, pair_shares, pairs_of
from llmrl.probe import of_pairs
from llmrl.train.learner import Learner, Loss
from llmrl.train.micro_batches import CreditedBatch, MetricSums, Outputs


@dataclass(frozen=True)
class PreferenceObjective:
    """An Algorithm's preference losses: the weighted sum of each one's mean over pairs, or over completions.

    groups: how many of the optimizer step's groups have a pair; all weigh the same. completions: how many have a token.
    coefficients: the gradient with respect to the log-probabilities of losses that need all completions at once.
    controlled: the controllers' outputs.
    """

    algorithm: Algorithm
    groups: int
    completions: int
    controlled: Mapping[str, Tensor]
    coefficients: Tensor | None = None

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
    ) -> PreferenceObjective:
        """The objective of an update; losses that need all of it at once need its log-probabilities first, and add
        their metrics to `sums`.

        fresh: before the batch's first update, when the old log-probabilities are the current ones.
        """
        batch = mini.batch
        chosen, _ = pairs_of(outcomes(batch.rewards, batch.response_mask), batch.group_ids)
        completions = int(batch.response_mask.any(dim=1).sum())
        made = cls(algorithm, len(batch.group_ids[chosen].unique()), completions, controlled)
        if not algorithm.compares_all:
            return made
        logprobs = batch.get("old_logprobs") if fresh else None
        if logprobs is None:
            logprobs = learner.measure(batch, "logprobs")["logprobs"]
        leaf = logprobs.detach().clone().requires_grad_()
        with torch.enable_grad():
            loss = made.loss(batch, {"logprobs": leaf})
            (coefficients,) = torch.autograd.grad(loss, leaf)
        if learner.ranks.is_first:  # every rank has the whole of it
            sums.add("preference_loss", loss.detach())
        return cls(algorithm, made.groups, made.completions, controlled, coefficients)

    @property
    def wanted(self) -> frozenset[str]:
        return self.algorithm.wanted

    def __call__(self, part: CreditedBatch, rows: Tensor, found: Outputs) -> Loss:
        logprobs = found["logprobs"]
        sums: dict[str, Tensor] = {}
        if self.coefficients is None:
            total = self.loss(part.batch, found)
            sums["preference_loss"] = total.detach()
        else:
            total = (self.coefficients[rows, : logprobs.shape[1]].to(logprobs.device) * logprobs).sum()
        stats = self._stats(part.batch, found)
        if "ref_logprobs" in part.batch:
            ratios = compared({**part.batch.data, "logprobs": logprobs.detach()}, ["completion_log_ratios"])
            sums["completion_log_ratios"] = ratios["completion_log_ratios"] / max(self.completions, 1)
        pairs = next(iter(stats.values()))
        return Loss(total, sums, stats, torch.ones_like(pairs, dtype=torch.bool))

    def loss(self, batch: Batch, found: Outputs) -> Tensor:
        """The weighted losses of these rows, each times its share in the mean over the optimizer step: []."""
        device = found["logprobs"].device
        data = with_old_as_current({**batch.data, **found, **{k: v.to(device) for k, v in self.controlled.items()}})
        read = {name for one in self.algorithm.preference_loss for name in one.piece.data}
        data |= compared(data, (read & names(COMPARED)) | {"chosen"})
        of_pair = pair_shares(data["chosen"], data["group_ids"]) / max(self.groups, 1)
        of_completion = data["response_mask"].any(dim=1) / max(self.completions, 1)
        total = found["logprobs"].sum() * 0.0  # the gradient of rows without a pair
        for one in self.algorithm.preference_loss:
            share = of_pair if of_pairs(one.piece) else of_completion
            total = total + one.weight * (one.piece(data) * share.to(total.dtype)).sum()
        return total

    def _stats(self, batch: Batch, found: Outputs) -> dict[str, Tensor]:
        """Statistics of each pair: [M]."""
        data = {**batch.data, **{name: value.detach() for name, value in found.items()}}
        sides = [f"{side}_{name}" for side in ("chosen", "rejected") for name in ("logprobs", "lengths")]
        margin = "log_ratios" if "ref_logprobs" in data else "logprobs"
        found_by = compared(data, [*sides, f"chosen_{margin}", f"rejected_{margin}"])
        stats = {name: found_by[name].float() for name in sides}
        difference = found_by[f"chosen_{margin}"] - found_by[f"rejected_{margin}"]
        if margin == "log_ratios":
            stats |= {f"{side}_log_ratios": found_by[f"{side}_log_ratios"] for side in ("chosen", "rejected")}
        ties = difference.eq(0).float()
        accuracy = difference.gt(0) + ties / 2
        return stats | {"preference_margin": difference, "preference_accuracy": accuracy, "preference_ties": ties}

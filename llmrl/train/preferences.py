"""The objective of preference losses, bound to the trajectories of one optimizer step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.algorithm import Algorithm, with_old_as_current
from llmrl.batch import Batch
from llmrl.fields import COMPARED, names
from llmrl.ops.shared.comparisons import SIDES, compared, outcomes, pair_shares, pairs_of
from llmrl.ops.shared.steps import first_error_shares, step_correct, step_verdicts
from llmrl.probe import of_pairs
from llmrl.reward_model_combinations import labels_steps
from llmrl.train.learner import Learner, Loss
from llmrl.train.micro_batches import CreditedBatch, MetricSums, Outputs


@dataclass(frozen=True)
class PreferenceObjective:
    """An Algorithm's preference losses: the weighted sum of each one's mean over pairs, or over completions.

    groups: how many of the optimizer step's groups have a pair; all weigh the same. completions: how many have a token.
    coefficients: the gradient, with respect to the algorithm's `trained` output, of losses that need all completions
    at once.
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
        """The objective of an update; losses that need all of it at once need the model's output for it first, and
        add their metrics to `sums`.

        fresh: before the batch's first update, when the old log-probabilities are the current ones.
        """
        batch = mini.batch
        chosen, _ = pairs_of(outcomes(batch.rewards, batch.response_mask), batch.group_ids)
        completions = int(batch.response_mask.any(dim=1).sum())
        made = cls(algorithm, len(batch.group_ids[chosen].unique()), completions, controlled)
        if not algorithm.compares_all:
            return made
        name = algorithm.trained
        output = batch.get(f"old_{name}") if fresh else None
        if output is None:
            output = learner.measure(batch, name)[name]
        leaf = output.detach().clone().requires_grad_()
        with torch.enable_grad():
            loss = made.loss(batch, {name: leaf})
            (coefficients,) = torch.autograd.grad(loss, leaf)
        if learner.ranks.is_first:  # every rank has the whole of it
            sums.add("preference_loss", loss.detach())
        return cls(algorithm, made.groups, made.completions, controlled, coefficients)

    @property
    def wanted(self) -> frozenset[str]:
        return self.algorithm.wanted

    def __call__(self, part: CreditedBatch, rows: Tensor, found: Outputs) -> Loss:
        output = found[self.algorithm.trained]
        sums: dict[str, Tensor] = {}
        if self.coefficients is None:
            total = self.loss(part.batch, found)
            sums["preference_loss"] = total.detach()
        else:
            total = (self.coefficients[rows, : output.shape[1]].to(output.device) * output).sum()
        if labels_steps(self.algorithm):
            verdicts = step_verdicts(output.detach(), part.batch.turn_rewards)
            stats = {"step_accuracy": step_correct(verdicts)}
            return Loss(total, sums, stats, verdicts.labelled, first_error_shares(verdicts))
        stats = self._stats(part.batch, found)
        if "ref_logprobs" in part.batch:
            ratios = compared({**part.batch.data, "logprobs": output.detach()}, ["completion_log_ratios"])
            sums["completion_log_ratios"] = ratios["completion_log_ratios"] / max(self.completions, 1)
        pairs = next(iter(stats.values()))
        return Loss(total, sums, stats, torch.ones_like(pairs, dtype=torch.bool))

    def loss(self, batch: Batch, found: Outputs) -> Tensor:
        """The weighted losses of these rows, each times its share in the mean over the optimizer step: []."""
        output = found[self.algorithm.trained]
        device = output.device
        data = with_old_as_current({**batch.data, **found, **{k: v.to(device) for k, v in self.controlled.items()}})
        read = {name for one in self.algorithm.preference_loss for name in one.piece.data}
        data |= compared(data, (read & names(COMPARED)) | {"chosen"})
        of_pair = pair_shares(data["chosen"], data["group_ids"]) / max(self.groups, 1)
        of_completion = data["response_mask"].any(dim=1) / max(self.completions, 1)
        total = output.sum() * 0.0  # the gradient of rows without a pair
        for one in self.algorithm.preference_loss:
            share = of_pair if of_pairs(one.piece) else of_completion
            total = total + one.weight * (one.piece(data) * share.to(total.dtype)).sum()
        return total

    def _stats(self, batch: Batch, found: Outputs) -> dict[str, Tensor]:
        """Statistics of each pair: [M]."""
        data = {**batch.data, **{name: value.detach() for name, value in found.items()}}
        return pair_statistics(data, of=self.algorithm.implicit_reward.of)


def pair_statistics(data: Mapping[str, Tensor], *, of: str) -> dict[str, Tensor]:
    """Statistics of each pair, from log-probabilities or from scores: [M] each.

    The model prefers the completion that has more of `of` (see llmrl.algorithm.ImplicitReward); a tie counts half.
    """
    output = "scores" if "scores" in data else "logprobs"
    names = [output, "lengths", *(["log_ratios"] if "ref_logprobs" in data else [])]
    sides = [f"{side}_{name}" for name in names for side in SIDES]
    stats = {name: value.float() for name, value in compared(data, sides).items()}
    chosen, rejected = compared(data, [f"{side}_{of}" for side in SIDES]).values()
    difference = chosen.float() - rejected.float()
    ties = difference.eq(0).float()
    stats |= {"preference_margin": difference, "preference_ties": ties}
    return stats | {"preference_accuracy": difference.gt(0) + ties / 2}

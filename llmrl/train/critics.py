"""The critic of a role: its settings, its learner, and the rows that it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmrl.batch import Batch
from llmrl.data.contexts import CriticRows, context_ids
from llmrl.errors import RunStopped
from llmrl.recipe import Critic as CriticSettings
from llmrl.train.learner import Learner
from llmrl.train.micro_batches import CreditedBatch, Outputs
from llmrl.types import Credit, Group


@dataclass
class ValueFunction:
    """The critic: `learner` is its own, or None where the policy's learner trains it too."""

    settings: CriticSettings
    learner: Learner | None = None

    def with_context(self, batch: Batch, groups: Sequence[Group], tokenizer: Any) -> Batch:
        """The batch with the tokens that the critic alone reads, if the recipe names a context.

        groups: those that the batch was packed from. Raises RunStopped for a row that lacks what the context names.
        """
        if self.settings.context is None:
            return batch
        trajectories = [one for group in groups for one in group.trajectories]
        of_rows = batch.get("trajectory_ids")
        if of_rows is not None:
            trajectories = [trajectories[index] for index in of_rows.tolist()]
        try:
            found = context_ids(self.settings.context, trajectories, tokenizer)
        except ValueError as error:
            raise RunStopped(f"critic.context: {error}") from None
        return batch.with_(context_ids=found)

    def measure(self, batch: Batch, *names: str) -> Outputs:
        """The outputs `names` of a critic with a learner of its own, on the policy's rows: [N, T, ...] each."""
        assert self.learner is not None
        if self.settings.context is not None and "context_ids" not in batch:
            raise RunStopped("critic.context: the batch to be measured has no contexts")
        rows = CriticRows.of(batch)
        return {name: rows.back(tensor) for name, tensor in self.learner.measure(rows.batch, *names).items()}


def critic_rows(mini: CreditedBatch) -> CreditedBatch:
    """The trajectories of an optimizer step as the critic reads them."""
    if "context_ids" not in mini.batch:
        return mini
    rows, credit = CriticRows.of(mini.batch), mini.credit
    returns = None if credit.returns is None else rows.spread(credit.returns, math.nan)
    fixed = {name: rows.spread(weight) for name, weight in mini.fixed.items()}
    return CreditedBatch(rows.batch, Credit(rows.spread(credit.advantages), returns), fixed)

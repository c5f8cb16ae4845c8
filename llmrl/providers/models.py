"""Fields that the policy, the reference, earlier policies and the critic give a batch before any update."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from llmrl.batch import Batch
from llmrl.fields import BY_NAME
from llmrl.marks import provides
from llmrl.pieces import Piece


@provides("old_logprobs", "old_entropy", "old_top_ids", "old_top_logprobs", "old_router_ids", "old_router_logprobs")
def old_policy(batch: Batch, policy: Any, wanted: Collection[str]) -> dict[str, Tensor]:
    """The policy's outputs before the step's first update, all in one pass: [N, T, ...] each."""
    outputs = {name: str(BY_NAME[name].of_model) for name in wanted}
    found = policy.measure(batch, *outputs.values())
    return {name: found[output] for name, output in outputs.items()}


def ref_logprobs(batch: Batch, reference: Any) -> Tensor:
    """Log-probabilities of the frozen reference: [N, T]."""
    return reference.measure(batch, "logprobs")["logprobs"]


def ref_hidden(batch: Batch, reference: Any) -> Tensor:
    """Hidden states of the frozen reference: [N, T, d]."""
    return reference.measure(batch, "hidden")["hidden"]


def past_logprobs(batch: Batch, past: Any) -> Tensor:
    """Log-probabilities of each earlier policy, the newest first: [N, T, K]."""
    return past.logprobs(batch)


def past_moves(past: Any) -> int:
    """How many times the policy was kept as an earlier one."""
    return past.moves


def old_outputs(batch: Batch, critic: Any) -> Tensor:
    """The critic's outputs before the step's first update: [N, T, H]."""
    return critic.measure(batch, "value_outputs")["value_outputs"]


@provides("values", "value_std")
def values(old_outputs: Tensor, response_mask: Tensor, reading: Piece) -> dict[str, Tensor]:
    """The critic's value of each prefix, and the standard deviation of its outputs over heads: [N, T] each."""
    read = reading({"outputs": old_outputs}) * response_mask
    return {"values": read, "value_std": old_outputs.std(dim=-1, correction=0)}

"""Fields that the policy, the reference, earlier policies and the critic give a batch before any update."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
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


def ref_log_partition(batch: Batch, reference: Any) -> Tensor:
    """Log-sum-exp of the logits of the frozen reference's next token: [N, T]."""
    return reference.measure(batch, "log_partition")["log_partition"]


def ref_hidden(batch: Batch, reference: Any) -> Tensor:
    """Hidden states of the frozen reference: [N, T, d]."""
    return reference.measure(batch, "hidden")["hidden"]


def past_logprobs(batch: Batch, past: Any) -> Tensor:
    """Log-probabilities of each earlier policy, the newest first: [N, T, K]."""
    return past.logprobs(batch)


def past_moves(past: Any) -> int:
    """How many times the policy was kept as an earlier one."""
    return past.moves


@provides("old_outputs", "old_outputs_after")
def old_critic(batch: Batch, critic: Any, wanted: Collection[str]) -> dict[str, Tensor]:
    """The critic's outputs before the step's first update: [N, T, H] each."""
    return _measured(critic, batch, "old_", wanted)


@provides("target_outputs", "target_outputs_after")
def target_critic(batch: Batch, critic_target: Any, wanted: Collection[str]) -> dict[str, Tensor]:
    """The outputs of the critic's slow copy: [N, T, H] each."""
    return _measured(critic_target, batch, "target_", wanted)


def _measured(critic: Any, batch: Batch, prefix: str, wanted: Collection[str]) -> dict[str, Tensor]:
    outputs = {name: f"value_{name.removeprefix(prefix)}" for name in wanted}
    found = critic.measure(batch, *outputs.values())
    return {name: found[output] for name, output in outputs.items()}


@provides("values", "value_std")
def values(old_outputs: Tensor, response_mask: Tensor, reading: Piece) -> dict[str, Tensor]:
    """The critic's value of each prefix, and the standard deviation of its outputs over heads: [N, T] each."""
    read = reading({"outputs": old_outputs}) * response_mask
    return {"values": read, "value_std": old_outputs.std(dim=-1, correction=0)}


def final_values(
    batch: Batch, reward_components: Tensor, critic: Any, reading: Piece, *, also_scored: bool = False
) -> Tensor:
    """The critic's value of what follows the last token of a trajectory that a limit cut, 0 for one that ended: [N].

    A trajectory that reward functions score has its verdict, however it ended, so its final value is 0 as well, unless
    also_scored is set.
    """
    found, cut = torch.zeros(len(batch)), batch.get("cut_short")
    if cut is None or not cut.any() or (reward_components.shape[1] and not also_scored):
        return found
    rows = cut.nonzero()[:, 0]
    ended = _with_one_more_token(batch.rows(rows))
    outputs = critic.measure(ended, "value_outputs")["value_outputs"]
    found[rows] = (reading({"outputs": outputs}) * ended.response_mask).sum(dim=1).float()
    return found


def _with_one_more_token(batch: Batch) -> Batch:
    """Each row with one token after its last, which alone counts as response: its value is that of all before."""
    width = batch.token_ids.shape[1]
    longer = {
        name: torch.cat([tensor, tensor[:, -1:]], dim=1)
        for name, tensor in batch.data.items()
        if name in BY_NAME and BY_NAME[name].shape.startswith("N T")
    }
    last = torch.nn.functional.one_hot(batch.lengths, width + 1).bool()
    attention = torch.nn.functional.pad(batch.attention_mask, (0, 1)) | last
    return batch.with_(**{**longer, "attention_mask": attention, "response_mask": last})

"""Completions as a whole, and the pairs of them that preference losses compare."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from llmrl.ops.shared.groups import group_sums, trajectory_rewards

SIDES = ("chosen", "rejected")


def outcomes(rewards: Tensor, response_mask: Tensor) -> Tensor:
    """The sum of each completion's rewards, nan for one without response tokens: [N, T] to [N] fp64."""
    return trajectory_rewards(rewards, response_mask).masked_fill(~response_mask.any(dim=1), torch.nan)


def pairs_of(rewards: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of the chosen and of the rejected completion of every pair: [M] int64 each.

    Two completions of a group are a pair if their rewards [N] differ; the chosen one has the higher reward. One whose
    reward is nan is in no pair. The pairs are in the order of their chosen, then of their rejected rows.
    """
    same_group = group_ids[:, None] == group_ids[None, :]
    chosen, rejected = (same_group & (rewards[:, None] > rewards[None, :])).nonzero(as_tuple=True)
    return chosen, rejected


def pair_shares(chosen: Tensor, group_ids: Tensor) -> Tensor:
    """Each pair's part of its group, 1 / (pairs of the group), so that all groups weigh the same: [M] fp64."""
    return 1 / group_sums(torch.ones_like(chosen, dtype=torch.float64), group_ids[chosen])


def compared(data: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The fields `names` of completions and of pairs, computed from the batch's fields, [N] or [M] each.

    completion_X          the sum over response tokens of X, for X = logprobs, old_logprobs, ref_logprobs
    completion_log_ratios completion_logprobs - completion_ref_logprobs
    completion_lengths    the number of response tokens
    completion_mean_X     completion_X / completion_lengths, for X = logprobs, log_ratios
    completion_rewards    the sum of the rewards, nan for a completion without response tokens
    chosen, rejected      the rows of each pair, as `pairs_of` says
    chosen_X, rejected_X  completion_X of these rows
    """
    mask = data["response_mask"]
    rewards = outcomes(data["rewards"], mask)
    rows = dict(zip(SIDES, pairs_of(rewards, data["group_ids"]), strict=True))

    def of_completion(name: str) -> Tensor:
        if name == "lengths":
            return mask.sum(dim=1)
        if name == "rewards":
            return rewards
        if name.startswith("mean_"):
            return of_completion(name.removeprefix("mean_")) / mask.sum(dim=1).clamp(min=1)
        if name == "log_ratios":
            return of_completion("logprobs") - of_completion("ref_logprobs")
        return torch.where(mask, data[name], 0.0).sum(dim=1)

    found: dict[str, Tensor] = {}
    for name in names:
        side, _, rest = name.partition("_")
        if name in rows:
            found[name] = rows[name]
        elif side in rows:
            found[name] = of_completion(rest)[rows[side]]
        else:
            found[name] = of_completion(rest)
    return found

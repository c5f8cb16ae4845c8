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


def at_last(values: Tensor, response_mask: Tensor) -> Tensor:
    """The values at each row's last response token, zero for a row without one: [N, T, ...] to [N, ...]."""
    steps = torch.arange(1, response_mask.shape[1] + 1, device=values.device)
    last = (response_mask * steps).argmax(dim=1)
    found = values[torch.arange(len(values), device=values.device), last]
    return found * response_mask.any(dim=1).reshape(-1, *[1] * (found.dim() - 1))


def compared(data: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The fields `names` of completions and of pairs, computed from the batch's fields, [N] or [M] each.

    completion_X          the sum over response tokens of X, for X = logprobs, old_logprobs, ref_logprobs, ref_kl, and
                          of each earlier policy for X = past_logprobs: [N, K]
    completion_log_ratios completion_logprobs - completion_ref_logprobs
    completion_head_scores  the scores at the last response token, of each head: [N, H]; zero without one
    completion_scores     their mean over heads
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
        if name == "head_scores":
            return at_last(data["scores"], mask)
        if name == "scores":
            return of_completion("head_scores").mean(dim=1)
        values = data[name]
        return torch.where(mask.reshape(*mask.shape, *[1] * (values.dim() - 2)), values, 0.0).sum(dim=1)

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

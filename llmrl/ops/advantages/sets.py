"""A trajectory's part in the achievement of a set of answers to the same prompt."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from llmrl.ops.shared.groups import group_std, members, spread, trajectory_rewards
from llmrl.ops.shared.ranges import require_positive
from llmrl.types import Credit


def best_of_group(
    rewards: Tensor, response_mask: Tensor, group_ids: Tensor, *, normalize_std: bool = True, std_floor: float = 1e-6
) -> Credit:
    """The group's best answer is credited with its lead over the second best; the others get 0.

        A_best = (R_(1) - R_(2)) / (std_g R + std_floor)        std unbiased, 1 without normalize_std
        A_i    = 0                                              for all others

    R_(1), R_(2): the group's highest and second highest outcome. A tie at the top gives every member 0, as does a group
    of one. rewards, response_mask: [N, T]; group_ids: [N]. Raises ValueError if std_floor is not positive. Source:
    Optimizing inference-time objectives (pass@k), arXiv 2503.19595.
    """
    require_positive(std_floor=std_floor)
    found = trajectory_rewards(rewards, response_mask)
    credit = torch.zeros_like(found)
    for rows in members(response_mask, group_ids):
        if len(rows) > 1:
            top, where = found[rows].topk(2)
            credit[rows[where[0]]] = top[0] - top[1]
    if normalize_std:
        credit = credit / (group_std(found, response_mask, group_ids) + std_floor)
    return Credit(spread(credit, response_mask))


def polychromic(
    rewards: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    answer_ids: Tensor,
    *,
    set_size: int = 4,
    max_sets: int = 100_000,
) -> Credit:
    """How much better the sets that hold a trajectory are than all sets: success times diversity.

        f(S) = mean_{i in S} R_i * d(S)        d(S) = distinct answers in S / set_size, 0 if all are the same
        A_i  = mean_{S holds i} f(S) - mean_S f(S)

    over all C(n, set_size) sets of a group's n members, so no sampling noise is added. Outcomes are meant to lie
    in [0, 1]: below 0, diversity would be punished. rewards, response_mask: [N, T]; group_ids, answer_ids: [N].
    A group smaller than set_size, which has no sets, has credit 0.
    Raises ValueError if set_size is under 2, or if a group has more than max_sets sets.
    Source: Polychromic objectives, arXiv 2509.25424, with the prompt as the only state that is branched from.
    """
    if set_size < 2:
        raise ValueError(f"set_size: {set_size} is not valid, expected at least 2")
    found = trajectory_rewards(rewards, response_mask)
    credit = torch.zeros_like(found)
    for rows in members(response_mask, group_ids):
        count = comb(len(rows), set_size)
        if count > max_sets:
            raise ValueError(
                f"max_sets: {max_sets} is not valid for a group of {len(rows)} with set_size {set_size}, "
                f"expected at least {count}"
            )
        if count:
            credit[rows] = _set_credit(found[rows], answer_ids[rows], set_size)
    return Credit(spread(credit, response_mask))


def _set_credit(found: Tensor, answers: Tensor, set_size: int) -> Tensor:
    """The credit of a group's members, from their outcomes and answers: [n] fp64."""
    size = len(found)
    sets = _sets(size, set_size).to(found.device)
    distinct = answers[sets].sort(dim=1).values.diff(dim=1).ne(0).sum(dim=1) + 1
    value = found[sets].mean(dim=1) * torch.where(distinct > 1, distinct / set_size, 0.0)
    above = (value - value.mean()).unsqueeze(1).expand(sets.shape)
    total = torch.zeros_like(found).index_add_(0, sets.flatten(), above.flatten())
    return total / comb(size - 1, set_size - 1)


@lru_cache(maxsize=4)
def _sets(size: int, set_size: int) -> Tensor:
    """All sets of `set_size` of `size` members, by position: [C(size, set_size), set_size] int64."""
    return torch.tensor(list(combinations(range(size), set_size)))

"""Credit of turns that several trajectories of a group share."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.groups import group_sums
from llmrl.ops.shared.turns import on_tokens, shared_turns, taken_turns, turn_sums


def merged_turns(
    advantages: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    state_ids: Tensor,
    action_ids: Tensor,
    group_ids: Tensor,
) -> Tensor:
    """A turn that several trajectories share has the mean of their advantages; other turns keep their own.

        edge(k) = (state of turn k, its action, the state of the next turn)
        A'_k    = mean over the group's trajectories with edge(k) of their advantage there

    A trajectory that takes an edge several times counts once. The trajectories make one graph, in which states are
    nodes: a turn that good and bad outcomes share is credited with neither, and turns at which they part decide. After
    the last turn comes the end; a turn whose state or action is unknown, -1, is shared with none. The metric
    turns_shared tells how many are. All [N, T], group_ids [N]. Source: SALT, arXiv 2510.20022, whose rule of merging is
    reconstructed here from its abstract.
    """
    taken = taken_turns(response_mask, turn_ids)
    lengths = turn_sums(torch.ones_like(advantages), response_mask, turn_ids)
    own = turn_sums(advantages, response_mask, turn_ids) / lengths.clamp(min=1)
    rows, edge_of = shared_turns(response_mask, turn_ids, state_ids, action_ids, group_ids)
    visit = rows * (int(edge_of.max()) + 1 if len(edge_of) else 1) + edge_of
    share = 1 / group_sums(torch.ones_like(own[taken]), visit)
    merged = own.clone()
    merged[taken] = group_sums(own[taken] * share, edge_of) / group_sums(share, edge_of)
    return torch.where(response_mask, advantages + on_tokens(merged - own, response_mask, turn_ids), 0.0).float()

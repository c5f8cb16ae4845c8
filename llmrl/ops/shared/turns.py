"""Tables of turns: one number for each turn of each trajectory, [N, K], and back on the tokens of the turns.

turn_ids [N, T] rise along a row and are read on response tokens alone, so nothing that others wrote counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.recursion import reward_to_go

ENDED = -2
"""The state after a trajectory's last turn."""


def turn_of_tokens(response_mask: Tensor, turn_ids: Tensor) -> Tensor:
    """The column of each response token's turn in the tables, 0 off the mask: [N, T] int64."""
    return torch.where(response_mask, turn_ids, 0)


def taken_turns(response_mask: Tensor, turn_ids: Tensor) -> Tensor:
    """Whether the trajectory has a turn of that number: [N, K] bool."""
    turn_of = turn_of_tokens(response_mask, turn_ids)
    shape = (len(turn_of), int(turn_of.max()) + 1)
    counts = torch.zeros(shape, dtype=torch.int64, device=turn_of.device)
    return counts.scatter_add_(1, turn_of, response_mask.long()) > 0


def turn_sums(values: Tensor, response_mask: Tensor, turn_ids: Tensor) -> Tensor:
    """The sum of `values` over each turn's tokens, 0 for a turn that was not taken: [N, K] fp64."""
    turn_of = turn_of_tokens(response_mask, turn_ids)
    sums = torch.zeros((len(turn_of), int(turn_of.max()) + 1), dtype=torch.float64, device=turn_of.device)
    return sums.scatter_add_(1, turn_of, torch.where(response_mask, values, 0.0).double())


def turn_names(ids: Tensor, response_mask: Tensor, turn_ids: Tensor) -> Tensor:
    """The number that all tokens of a turn have in `ids`, -1 for a turn that was not taken: [N, K] int64."""
    turn_of = turn_of_tokens(response_mask, turn_ids)
    names = torch.full((len(turn_of), int(turn_of.max()) + 1), -1, dtype=torch.int64, device=turn_of.device)
    return names.scatter_reduce_(1, turn_of, torch.where(response_mask, ids, -1), "amax")


def on_tokens(table: Tensor, response_mask: Tensor, turn_ids: Tensor) -> Tensor:
    """A table's numbers on all tokens of the turns, 0 elsewhere: [N, K] to [N, T] fp32."""
    return torch.where(response_mask, table.gather(1, turn_of_tokens(response_mask, turn_ids)), 0.0).float()


def turn_returns(rewards: Tensor, response_mask: Tensor, turn_ids: Tensor, *, gamma: float) -> Tensor:
    """The reward-to-go of each turn, 0 past a trajectory's last: [N, K] fp64.

    G_k = r_k + gamma G_next(k)        r_k: the rewards on the turn's tokens, summed
    """
    taken = taken_turns(response_mask, turn_ids)
    table = turn_sums(rewards, response_mask, turn_ids)
    returns = reward_to_go(table, torch.ones_like(table).masked_fill(taken, gamma))
    return torch.where(taken, returns, 0.0)


def turn_starts(response_mask: Tensor, turn_ids: Tensor) -> Tensor:
    """True on the first token of each turn: [N, T] bool."""
    turns = torch.where(response_mask, turn_ids, -1)
    before = torch.nn.functional.pad(turns.cummax(dim=1).values[:, :-1], (1, 0), value=-1)
    return response_mask & (turns > before)


def turn_ends(response_mask: Tensor, turn_ids: Tensor) -> Tensor:
    """True on the last token of each turn, whatever its reward: [N, T] bool."""
    flipped = torch.where(response_mask, turn_ids, -1).flip(1)
    return turn_starts(response_mask.flip(1), flipped.max() - flipped).flip(1)


def turn_groups(taken: Tensor, group_ids: Tensor, *names: Tensor) -> tuple[Tensor, Tensor]:
    """Of each turn that was taken, its row, and a number that is equal for turns of a group with equal `names`.

    taken, names: [N, K]; group_ids: [N]. A turn without a name, -1, has a number of its own. Returns [M] int64 each.
    """
    rows = taken.nonzero()[:, 0]
    keys = torch.stack([group_ids[rows], *(name[taken] for name in names)], dim=1)
    alone = (keys[:, 1:] == -1).any(dim=1)
    apart = torch.where(alone, torch.arange(1, len(rows) + 1, device=rows.device), 0)
    return rows, torch.cat([keys, apart[:, None]], dim=1).unique(dim=0, return_inverse=True)[1]


def shared_turns(
    response_mask: Tensor, turn_ids: Tensor, state_ids: Tensor, action_ids: Tensor, group_ids: Tensor
) -> tuple[Tensor, Tensor]:
    """Of each turn, its row, and a number that is equal for turns of a group with equal state, action and next state.

    Returns [M] int64 each, in the order of `taken_turns`.
    """
    taken = taken_turns(response_mask, turn_ids)
    states = turn_names(state_ids, response_mask, turn_ids)
    actions = turn_names(action_ids, response_mask, turn_ids)
    return turn_groups(taken, group_ids, states, actions, _next_states(states, taken))


def _next_states(states: Tensor, taken: Tensor) -> Tensor:
    """The state of the turn after each one, ENDED after the last: [N, K]."""
    following = torch.full_like(states, ENDED)
    ahead = torch.full_like(states[:, 0], ENDED)
    for turn in reversed(range(states.shape[1])):
        following[:, turn] = ahead
        ahead = torch.where(taken[:, turn], states[:, turn], ahead)
    return following

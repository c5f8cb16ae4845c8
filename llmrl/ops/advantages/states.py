"""Credit of turns against other turns that the same prompt's trajectories took in the same state.

    G_k  the turn's reward-to-go: r_k + gamma G_{k+1}, of the rewards on its tokens
    S_k  the turns of the group that were taken in the state of turn k: those of equal state_ids

A turn without a state, -1, is in a state of its own. Turns of equal number are never compared: after different actions
they stand in different states, so the difference of their returns tells of earlier turns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.marks import settings_checked_by
from llmrl.ops.shared.groups import group_centred, group_std, group_sums, present, spread, trajectory_rewards
from llmrl.ops.shared.ranges import refuse_negative, require_fraction, require_positive
from llmrl.ops.shared.turns import on_tokens, taken_turns, turn_groups, turn_names, turn_returns
from llmrl.types import Credit

COMPARED = ("state", "group")
TURN_INDEX = frozenset({"turn", "turn_id", "turn_ids", "turn_index", "step", "step_index", "index", "position"})


def _check_compared(*, compared: str, gamma: float) -> None:
    require_fraction(gamma=gamma)
    if compared in TURN_INDEX:
        raise ValueError(
            f"compared: {compared} is not valid, expected {' or '.join(COMPARED)}: turns of equal number stand in "
            f"different states, so that a mean over them credits a turn for the state that earlier turns led to, and "
            f"only trajectories that lasted so long are in it"
        )
    if compared not in COMPARED:
        raise ValueError(f"compared: {compared} is not valid, expected {' or '.join(COMPARED)}")


@settings_checked_by(_check_compared)
def state_returns(
    rewards: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    state_ids: Tensor,
    group_ids: Tensor,
    *,
    compared: str = "state",
    gamma: float = 1.0,
) -> Credit:
    """The Monte Carlo return of each turn, less that of other trajectories' turns in the same state: unbiased.

        A_k = G_k - mean of G over the turns in S_k of other trajectories
        A_k = R_i - mean_{j != i} R_j        where there are none; R_i = G of i's first turn

    compared: state, as above, or group, where every turn has the second line. Neither baseline depends on the turn's
    own action or on what follows it. Trajectories of a group begin in one state, which makes the second line a baseline
    of all their turns. A trajectory alone in its group has credit 0. rewards, response_mask, turn_ids, state_ids:
    [N, T], turn_ids rising along a row; group_ids: [N]. Raises ValueError for gamma outside [0, 1] and for another
    `compared`, such as the turn's index. Source: leave-one-out, arXiv 2402.14740; equal states, arXiv 2505.10978.
    """
    _check_compared(compared=compared, gamma=gamma)
    taken, returns = taken_turns(response_mask, turn_ids), turn_returns(rewards, response_mask, turn_ids, gamma=gamma)
    first = taken & (taken.cumsum(dim=1) == 1)
    whole = torch.where(first, returns, 0.0).sum(dim=1)
    sizes = group_sums(present(response_mask), group_ids)
    alone = group_centred(whole, response_mask, group_ids) * sizes / (sizes - 1).clamp(min=1)
    credit = torch.where(taken, alone[:, None], 0.0)
    if compared == "state":
        rows, state_of = turn_groups(taken, group_ids, turn_names(state_ids, response_mask, turn_ids))
        found = returns[taken]
        own = rows * (int(state_of.max()) + 1 if len(state_of) else 1) + state_of
        count = group_sums(torch.ones_like(found), state_of) - group_sums(torch.ones_like(found), own)
        others = group_sums(found, state_of) - group_sums(found, own)
        credit[taken] = torch.where(count > 0, found - others / count.clamp(min=1), credit[taken])
    return Credit(on_tokens(credit, response_mask, turn_ids))


def state_grpo(
    rewards: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    state_ids: Tensor,
    group_ids: Tensor,
    *,
    gamma: float = 0.95,
    state_weight: float = 1.0,
    normalize_std: bool = True,
    std_floor: float = 1e-6,
) -> Credit:
    """The outcome against the group, plus each turn's return against that of all turns in its state.

        E_i = (R_i - mean_g R) / (std_g R + std_floor)        R_i: all rewards of trajectory i
        S_k = (G_k - mean G) / (std G + std_floor)            over the group's turns in the state of turn k
        A_k = E_i + state_weight S_k                          on all tokens of the turn

    std unbiased; without normalize_std neither part is divided. A turn alone in its state has S_k 0, so that without
    repeated states this is grpo: the metric state_group_size tells. Each trajectory counts once in E. rewards,
    response_mask, turn_ids, state_ids: [N, T] with turn_ids rising along a row; group_ids: [N]. Raises ValueError for
    gamma outside [0, 1], a negative state_weight or a std_floor that is not positive. Source: GiGPO, arXiv 2505.10978.
    """
    require_fraction(gamma=gamma)
    refuse_negative(state_weight=state_weight)
    require_positive(std_floor=std_floor)
    total = trajectory_rewards(rewards, response_mask)
    outcome = group_centred(total, response_mask, group_ids)
    taken, returns = taken_turns(response_mask, turn_ids), turn_returns(rewards, response_mask, turn_ids, gamma=gamma)
    _, state_of = turn_groups(taken, group_ids, turn_names(state_ids, response_mask, turn_ids))
    found, there = returns[taken], torch.ones_like(state_of, dtype=torch.bool)[:, None]
    step = group_centred(found, there, state_of)
    if normalize_std:
        outcome = outcome / (group_std(total, response_mask, group_ids) + std_floor)
        step = step / (group_std(found, there, state_of) + std_floor)
    credit = torch.zeros_like(returns)
    credit[taken] = state_weight * step
    return Credit(spread(outcome, response_mask) + on_tokens(credit, response_mask, turn_ids))

"""Targets of a critic's outputs, of whole trajectories, before the batch is cut.

A target is [N, T], the same for all outputs, or [N, T, H], one for each. It is nan where an output has none, as
everywhere off the response mask. Without one of these pieces a critic learns the advantage's returns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.groups import group_log_softmax, group_sums
from llmrl.ops.shared.ranges import refuse_negative, require_fraction
from llmrl.ops.shared.recursion import next_on_mask, reward_to_go
from llmrl.ops.shared.turns import on_tokens, turn_ends, turn_starts, turn_sums
from llmrl.ops.shared.twin import at_next, here_or_next, twin_heads


def monte_carlo(rewards: Tensor, response_mask: Tensor, *, gamma: float = 1.0) -> Tensor:
    """The discounted sum of the rewards that follow, whatever any critic says.

        R_t = r_t + gamma R_next(t)        next(t): the following response token

    rewards, response_mask: [N, T]. Returns [N, T]. Raises ValueError for a gamma outside [0, 1].
    Source: Monte-Carlo prediction; BPCO, arXiv 2608.23566.
    """
    require_fraction(gamma=gamma)
    found = torch.where(response_mask, rewards, 0.0).double()
    returns = reward_to_go(found, torch.where(response_mask, gamma, 1.0).double())
    return torch.where(response_mask, returns, torch.nan).float()


def twin_td(
    rewards: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    target_outputs: Tensor,
    target_outputs_after: Tensor,
    staleness: Tensor,
    cut_short: Tensor,
    *,
    gamma: float = 0.95,
    recorded_actions: bool = False,
) -> Tensor:
    """Temporal-difference targets of a twin critic's Q at the ends of turns, and of its V at their beginnings.

        Q_j(turn k) <- r_k + gamma V'_j(state of turn k + 1)        V' = 0 past the last turn
        V_j(state of turn k) <- Q'_j(turn k)                        of fresh turns alone, unless recorded_actions

    Primed values are the target network's; r_k: the rewards on the turn's tokens. Each estimate j has targets of its
    own: no minimum is taken. V is that of the current policy, so it learns from the turns that this policy has just
    taken (staleness 0), while Q learns from all. With recorded_actions it learns from every turn: V is then that of
    the policies whose turns were kept. The last turn of a trajectory that a limit cut short has no target of Q.

    rewards, response_mask, turn_ids: [N, T]; target_outputs, target_outputs_after: [N, T, H], see ops/shared/twin.py;
    staleness, cut_short: [N]. Returns [N, T, H], Q first. Raises ValueError for a gamma outside [0, 1] or an odd H.
    Source: ArCHer, arXiv 2402.19446; recorded_actions: Digi-Q, arXiv 2502.15760.
    """
    require_fraction(gamma=gamma)
    q, v = twin_heads(target_outputs, target_outputs_after)
    starts, ends = turn_starts(response_mask, turn_ids), turn_ends(response_mask, turn_ids)
    of_turn = on_tokens(turn_sums(rewards, response_mask, turn_ids), response_mask, turn_ids)
    goes_on = next_on_mask(starts.float(), starts) > 0
    for_q = of_turn.unsqueeze(-1) + gamma * at_next(v, starts)
    for_v = here_or_next(q, ends)
    learns_q = ends & (goes_on | ~cut_short.unsqueeze(1))
    learns_v = starts if recorded_actions else starts & (staleness == 0).unsqueeze(1)
    places = torch.cat([learns_q.unsqueeze(-1).expand_as(q), learns_v.unsqueeze(-1).expand_as(v)], dim=-1)
    return torch.where(places, torch.cat([for_q, for_v], dim=-1), torch.nan)


def implicit_td(
    rewards: Tensor,
    response_mask: Tensor,
    old_outputs: Tensor,
    old_outputs_after: Tensor,
    target_outputs: Tensor,
    target_outputs_after: Tensor,
    cut_short: Tensor,
    *,
    gamma: float = 0.99,
) -> Tensor:
    """Targets of a twin critic of tokens that asks about no action but those in the data: implicit Q-learning.

        Q_j(t) <- r_t + gamma V(next(t))        next(t): the following response token, over what others said;
                                                V: the mean of the critic's own, 0 past the last token
        V(t)   <- min_j Q'_j(t)                 Q' of the target network

    value_losses.twin_expectile makes V an upper expectile of these targets, so V is the value of the better actions of
    the data. The last token of a trajectory that a limit cut short has no target of Q. rewards, response_mask: [N, T];
    outputs: [N, T, H], see ops/shared/twin.py; cut_short: [N]. Returns [N, T, H], Q first. Raises ValueError for a
    gamma outside [0, 1] or an odd H. Source: ILQL, arXiv 2206.11871; the next token of the author as in LMRL-Gym,
    arXiv 2311.18232.
    """
    require_fraction(gamma=gamma)
    _, v = twin_heads(old_outputs, old_outputs_after)
    q, _ = twin_heads(target_outputs, target_outputs_after)
    given = torch.where(response_mask, rewards, 0.0).float()
    for_q = given + gamma * next_on_mask(v.mean(dim=-1), response_mask)
    goes_on = next_on_mask(response_mask.float(), response_mask) > 0
    learns_q = response_mask & (goes_on | ~cut_short.unsqueeze(1))
    for_q = torch.where(learns_q, for_q, torch.nan).unsqueeze(-1).expand_as(q)
    for_v = torch.where(response_mask, q.amin(dim=-1), torch.nan).unsqueeze(-1).expand_as(v)
    return torch.cat([for_q, for_v], dim=-1)


def choice_td(
    rewards: Tensor,
    turn_rewards: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    group_ids: Tensor,
    old_logprobs: Tensor,
    target_outputs: Tensor,
    target_outputs_after: Tensor,
    cut_short: Tensor,
    *,
    gamma: float = 0.99,
    alpha: float = 0.05,
) -> Tensor:
    """Soft temporal-difference targets of a twin critic of turns, where each state has a list of actions.

        Q_j(turn k) <- r_k + gamma V'_j(state of turn k + 1)                             of trajectories
        V_j(s)      <- sum_a pi(a|s) (min_i Q'_i(s, a) - alpha log pi(a|s))              of lists
        pi(a|s)     =  softmax over the list of sum_t old_logprobs_t

    A list is a group of completions without any reward: the actions in the state that is their prompt, which need not
    have been taken. A trajectory, of any group, has a reward for a turn at least, 0 included (data.recorded_turns.
    recorded_choices gives both). Primed values are the target network's; the last turn of a trajectory that a limit cut
    short has no target of Q. alpha: as in policy_losses.coupled.soft_choice.

    rewards, turn_rewards, response_mask, turn_ids, old_logprobs: [N, T]; target_outputs, target_outputs_after:
    [N, T, H], see ops/shared/twin.py; group_ids, cut_short: [N]. Returns [N, T, H], Q first. Raises ValueError for a
    gamma outside [0, 1], a negative alpha or an odd H. Source: soft actor-critic with V, arXiv 1801.01290; over a list
    of texts, without V, SAC-GLAM, arXiv 2410.12481.
    """
    refuse_negative(alpha=alpha)
    stale = torch.ones_like(cut_short, dtype=torch.int64)
    outputs = target_outputs, target_outputs_after
    of_q = twin_td(rewards, response_mask, turn_ids, *outputs, stale, cut_short, gamma=gamma)
    listed = response_mask.any(dim=1) & ~(response_mask & turn_rewards.isfinite()).any(dim=1)
    sums = torch.where(response_mask, old_logprobs.double(), 0.0).sum(dim=1)
    log_pi = group_log_softmax(sums, group_ids, listed)
    q, v = twin_heads(*outputs)
    ends = turn_ends(response_mask, turn_ids).unsqueeze(-1)
    least = torch.where(ends, q, 0.0).sum(dim=1).amin(dim=-1)
    soft = group_sums(torch.where(listed, log_pi.exp() * (least - alpha * log_pi), 0.0), group_ids).float()
    places = turn_starts(response_mask, turn_ids) & listed.unsqueeze(1)
    for_v = torch.where(places, soft.unsqueeze(1), torch.nan).unsqueeze(-1).expand_as(v)
    for_q = torch.where(listed[:, None, None], torch.nan, of_q[..., : q.shape[-1]])
    return torch.cat([for_q, for_v], dim=-1)

"""Outcomes together with rewards of single turns, such as for a tool call that ran, or of the steps of an answer.

turn_rewards[t] is a turn's or step's own reward, on its last token, and nan where there is none: a turn of reward 0 is
compared with others, a turn without a reward is not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.groups import group_centred, group_std, group_sums, present, spread
from llmrl.ops.shared.ranges import refuse_negative, require_fraction, require_positive
from llmrl.ops.shared.recursion import reward_to_go
from llmrl.ops.shared.turns import on_tokens, taken_turns, turn_sums
from llmrl.types import Credit


def turn_grpo(
    reward_components: Tensor,
    turn_rewards: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    group_ids: Tensor,
    *,
    turn_weight: float = 1.0,
    normalize_std: bool = True,
    std_floor: float = 1e-6,
    min_turn_reward: float | None = None,
) -> Credit:
    """The outcome's credit on all tokens, plus the credit of each rewarded turn on that turn, normalized separately.

        R_i     = sum_k reward_components_ik        r_j: the reward of turn j, of those that were given one
        O_i     = (R_i - mean_g R) / (std_g R + std_floor)        over the group's trajectories
        S_j     = (r_j - mean_g r) / (std_g r + std_floor)        over all rewarded turns of the group's trajectories
        A_t     = O_i + turn_weight S_j        on tokens of a rewarded turn j;  O_i on all others

    std unbiased; without normalize_std neither part is divided. A group's rewarded turns are pooled over trajectories.
    A single trajectory, and a single rewarded turn, has credit 0. min_turn_reward: a trajectory with a lower
    turn reward rests on a failed step, so it has no outcome credit and does not count in mean and std. Token rewards
    are not read.

    reward_components: [N, K]; turn_rewards, response_mask, turn_ids: [N, T]; group_ids: [N]. Raises ValueError for a
    negative turn_weight or a std_floor that is not positive. Source: THOR, arXiv 2509.13761, whose turns are compared
    with other samples of the same turn.
    """
    require_positive(std_floor=std_floor)
    refuse_negative(turn_weight=turn_weight)
    floor = std_floor if normalize_std else None
    given = response_mask & ~turn_rewards.isnan()
    steps = turn_sums(torch.where(given, turn_rewards, 0.0), response_mask, turn_ids)
    rewarded = turn_sums(given, response_mask, turn_ids) > 0

    compared = response_mask
    if min_turn_reward is not None:
        compared = response_mask & ~(given & (turn_rewards < min_turn_reward)).any(dim=1, keepdim=True)
    outcome = _standardized(reward_components.double().sum(dim=1), compared, group_ids, floor)
    step = torch.zeros_like(steps)
    group_of = group_ids[:, None].expand(steps.shape)[rewarded]
    step[rewarded] = _standardized(steps[rewarded], rewarded[rewarded][:, None], group_of, floor)
    return Credit(spread(outcome, response_mask) + on_tokens(turn_weight * step, response_mask, turn_ids))


def first_turn_grpo(
    reward_components: Tensor,
    turn_rewards: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    group_ids: Tensor,
    *,
    turn_weight: float = 1.0,
    normalize_std: bool = True,
    std_floor: float = 1e-4,
) -> Credit:
    """The outcome's credit on all tokens, plus that of the turn rewards on the turn before the first tool result.

        R_i     = sum_k reward_components_ik        r_i: the rewards of trajectory i's turns, summed
        O_i     = (R_i - mean_g R) / (std_g R + std_floor)        over the group's trajectories; S_i, C_i: of r, R + r
        A_t     = O_i + turn_weight S_i        on tokens of i's first turn, where a later one follows
        A_t     = O_i                          on tokens of later turns
        A_t     = C_i                          on all tokens of a trajectory of one turn, which used no tool

    std unbiased; without normalize_std none is divided. A trajectory without a turn reward has r 0 and is compared as
    well. Token rewards are not read. reward_components: [N, K]; turn_rewards, response_mask, turn_ids: [N, T];
    group_ids: [N]. Raises ValueError for a negative turn_weight or a std_floor that is not positive.
    Source: MT-GRPO, arXiv 2505.11821.
    """
    require_positive(std_floor=std_floor)
    refuse_negative(turn_weight=turn_weight)
    floor = std_floor if normalize_std else None
    given = response_mask & ~turn_rewards.isnan()
    outcome = reward_components.double().sum(dim=1)
    turn = torch.where(given, turn_rewards, 0.0).double().sum(dim=1)
    of_outcome, of_turn, of_both = (
        _standardized(values, response_mask, group_ids, floor)[:, None] for values in (outcome, turn, outcome + turn)
    )
    taken = taken_turns(response_mask, turn_ids)
    order = taken.cumsum(dim=1)
    credit = torch.where(order == 1, of_outcome + turn_weight * of_turn, of_outcome)
    credit = torch.where(order[:, -1:] == 1, of_both, credit)
    return Credit(on_tokens(credit, response_mask, turn_ids))


def step_grpo(
    reward_components: Tensor,
    turn_rewards: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    outcome_weight: float = 1.0,
    normalize_std: bool = True,
    std_floor: float = 1e-6,
) -> Credit:
    """The credit of each step on all tokens up to its end, plus the outcome's, normalized separately.

        R_i     = sum_k reward_components_ik        r_j: the reward of step j, on its last token
        O_i     = (R_i - mean_g R) / (std_g R + std_floor)        over the group's trajectories
        S_j     = (r_j - mean_g r) / (std_g r + std_floor)        over all rewarded steps of the group's trajectories
        A_t     = outcome_weight O_i + sum over steps j that end at t or later of S_j

    std unbiased; without normalize_std neither part is divided. reward_components: [N, K]; turn_rewards, response_mask:
    [N, T]; group_ids: [N]. Raises ValueError for a negative outcome_weight or a std_floor that is not positive. Source:
    GRPO with process supervision, DeepSeekMath, arXiv 2402.03300, which has no outcome beside the steps.
    """
    require_positive(std_floor=std_floor)
    refuse_negative(outcome_weight=outcome_weight)
    floor = std_floor if normalize_std else None
    given = response_mask & ~turn_rewards.isnan()
    outcome = _standardized(reward_components.double().sum(dim=1), response_mask, group_ids, floor)
    steps = torch.zeros_like(turn_rewards, dtype=torch.float64)
    group_of = group_ids[:, None].expand(given.shape)[given]
    steps[given] = _standardized(turn_rewards[given].double(), given[given][:, None], group_of, floor)
    to_come = steps.flip(1).cumsum(dim=1).flip(1)
    advantages = spread(outcome_weight * outcome, response_mask) + to_come.float()
    return Credit(torch.where(response_mask, advantages, 0.0))


def process_rloo(
    reward_components: Tensor,
    turn_rewards: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    gamma: float = 1.0,
) -> Credit:
    """The rewards to come of tokens or steps, and the outcome, each against the group's other members.

        A_t = sum over rewarded tokens s >= t of gamma^(s - t) (r_s - b_i)  +  R_i - mean_{j != i} R_j
        b_i = mean_{j != i} of the mean of trajectory j's rewards r

    s - t counts response tokens. reward_components: [N, K], R_i is their sum; turn_rewards, response_mask: [N, T], nan
    where no reward is; group_ids: [N]. A trajectory alone in its group has credit 0. Raises ValueError if gamma is
    outside [0, 1]. Source: PRIME, arXiv 2502.01456.
    """
    require_fraction(gamma=gamma)
    given = response_mask & ~turn_rewards.isnan()
    rewards = torch.where(given, turn_rewards, 0.0).double()
    means = rewards.sum(dim=1) / given.sum(dim=1).clamp(min=1)
    there = present(given)
    others = (group_sums(there, group_ids) - there).clamp(min=1)
    baseline = (group_sums(means * there, group_ids) - means * there) / others
    sizes = group_sums(present(response_mask), group_ids)
    steps = torch.where(given, rewards - baseline[:, None], 0.0) * (sizes > 1)[:, None]
    to_come = reward_to_go(steps, torch.ones_like(steps).masked_fill(response_mask, gamma))
    outcome = group_centred(reward_components.double().sum(dim=1), response_mask, group_ids)
    outcome = outcome * sizes / (sizes - 1).clamp(min=1)
    return Credit(spread(outcome, response_mask) + torch.where(response_mask, to_come, 0.0).float())


def _standardized(values: Tensor, there: Tensor, group_ids: Tensor, std_floor: float | None) -> Tensor:
    """`values` [M] less their group's mean, over its std plus the floor if there is one; 0 where `there` is False."""
    centred = group_centred(values, there, group_ids)
    return centred if std_floor is None else centred / (group_std(values, there, group_ids) + std_floor)

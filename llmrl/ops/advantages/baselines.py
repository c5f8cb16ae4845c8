"""Outcomes against baselines that do not depend on the batch: no groups, no critic."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.marks import made_for_stale_samples
from llmrl.ops.shared.groups import spread, trajectory_rewards
from llmrl.ops.shared.recursion import reward_to_go
from llmrl.types import Credit


def remax(rewards: Tensor, response_mask: Tensor, greedy_rewards: Tensor) -> Credit:
    """Reward-to-go less the reward of the greedy answer to the same prompt.

        A_t = sum_{k >= t} r_k - R_greedy

    rewards, response_mask: [N, T]; greedy_rewards: [N], where nan (not sampled, or not graded) gives credit 0.
    Source: ReMax, arXiv 2310.10505.
    """
    rewards = torch.where(response_mask, rewards, 0.0).double()
    returns = reward_to_go(rewards, torch.ones_like(rewards))
    greedy = greedy_rewards.double().unsqueeze(1)
    return Credit(torch.where(response_mask & ~greedy.isnan(), returns - greedy, 0.0).float())


def static_baseline(rewards: Tensor, response_mask: Tensor, static_values: Tensor) -> Credit:
    """Outcome less the frozen starting policy's mean reward on the same prompt.

        A_i = R_i - V_i

    As the policy improves on the starting one, the mean credit rises above 0, and a group that is all correct is still
    reinforced. rewards, response_mask: [N, T]; static_values: [N], where nan gives credit 0.
    Source: PVPO, arXiv 2508.21104.
    """
    credit = trajectory_rewards(rewards, response_mask) - static_values.double()
    return Credit(spread(torch.where(credit.isnan(), 0.0, credit), response_mask))


@made_for_stale_samples
def accepted(rewards: Tensor, response_mask: Tensor) -> Credit:
    """The outcome where it is above 0, else nothing: learning from accepted answers only.

        A_i = max(R_i, 0)

    With outcomes 0 and 1, or -1 and 1, this is supervised training on the policy's own correct answers; the tokens of
    rejected ones still count in the reduction's denominator. rewards, response_mask: [N, T].
    Source: RAFT, arXiv 2304.06767; A Minimalist Approach to LLM Reasoning, arXiv 2504.11343.
    """
    return Credit(spread(trajectory_rewards(rewards, response_mask).clamp(min=0), response_mask))

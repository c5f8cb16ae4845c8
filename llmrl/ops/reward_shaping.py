"""Changes to the rewards before the advantage reads them, on the whole batch, from data that no verifier has.

    response_mask   0  0  1  1  1  0  0  1  1  .
    rewards         0  0  0  0  r  0  0  0  R  .     outcome = r + R
    shaped          0  0  0  0  r  0  0  0  S  .     outcome = r + S: the change sits on the last response token

Turn rewards stay where they are, except in negative_entropy. Results are fp32 [N, T] and 0 off the mask; a trajectory
without response tokens gets nothing and is in no group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.curiosity import capped_bonus
from llmrl.ops.shared.groups import trajectory_rewards
from llmrl.ops.shared.ranges import require_fraction
from llmrl.ops.shared.rows import last_tokens, row_means


def unlikeliness(
    rewards: Tensor, response_mask: Tensor, group_ids: Tensor, old_logprobs: Tensor, *, weight: float = 0.25
) -> Tensor:
    """A success that the policy found likely earns less than one it found unlikely.

        R'_i = R_i (1 - weight rank_i / G)

    rank_i in 0..G-1 counts the group's members less likely than i by their mean log-probability; equally likely
    ones share the mean of their ranks. Meant for outcomes that are 0 for a failure: any other failure is scaled
    too, and -1 would come closer to 0. rewards, response_mask, old_logprobs: [N, T]; group_ids: [N].
    Raises ValueError for a weight outside [0, 1]. Source: Rewarding the Unlikely, arXiv 2506.02355.
    """
    require_fraction(weight=weight)
    likelihood = row_means(old_logprobs, response_mask)
    peers = (group_ids.unsqueeze(1) == group_ids) & response_mask.any(dim=1)
    less_likely = (peers & (likelihood < likelihood.unsqueeze(1))).sum(dim=1)
    as_likely = (peers & (likelihood == likelihood.unsqueeze(1))).sum(dim=1)
    rank = less_likely + (as_likely - 1) / 2
    share = rank.double() / peers.sum(dim=1).clamp(min=1)
    return _added(rewards, response_mask, -weight * share * trajectory_rewards(rewards, response_mask))


def perplexity_bonus(
    rewards: Tensor,
    response_mask: Tensor,
    old_logprobs: Tensor,
    progress: Tensor,
    *,
    kappa: float = 3.0,
    alpha: float = 1.0,
    omega: float = 1.0,
    stairs: int = 4,
) -> Tensor:
    """A bonus for a response that the policy itself found surprising.

        R'_i = R_i + omega_p min(|R_i| / kappa, alpha B_i)        B_i = -mean_t old_logprobs, in nats

    omega_p falls in `stairs` steps from omega to 0 over the stage. kappa above 1 keeps the sign of R_i, so a wrong
    answer never beats a right one by surprise; an outcome of 0 gets no bonus. rewards, response_mask, old_logprobs: [N,
    T]; progress: 0-dim. The source does not state kappa, alpha and omega; the defaults are ours. Raises ValueError for
    kappa or stairs not above 0, alpha or omega below 0. Source: CDE, arXiv 2509.09675.
    """
    surprise = -row_means(old_logprobs, response_mask)
    worth = trajectory_rewards(rewards, response_mask)
    bonus = capped_bonus(worth, surprise, progress, kappa=kappa, alpha=alpha, omega=omega, stairs=stairs)
    return _added(rewards, response_mask, bonus)


def negative_entropy(rewards: Tensor, response_mask: Tensor, old_entropy: Tensor) -> Tensor:
    """Confidence in place of every reward, turn rewards included: no label is read.

        R'_i = -mean_t H_t        H_t = entropy of the old policy at token t, in nats

    rewards, response_mask, old_entropy: [N, T]. A long run collapses into short and sure answers: watch accuracy
    on held-out prompts. Source: RENT, arXiv 2505.22660.
    """
    confidence = -row_means(old_entropy, response_mask)
    return _added(torch.zeros_like(rewards), response_mask, confidence)


def scaled(rewards: Tensor, response_mask: Tensor, hypervolume: Tensor) -> Tensor:
    """Every reward times the controller hypervolume, which measures recent progress on the Pareto front.

        r'_t = hypervolume r_t

    rewards, response_mask: [N, T]; hypervolume: 0-dim. An advantage that divides by the outcomes' standard
    deviation removes the factor again. Source: dynamic reward weighting, arXiv 2509.11452.
    """
    return torch.where(response_mask, rewards * hypervolume, 0.0).float()


def weighted_components(
    rewards: Tensor, response_mask: Tensor, reward_components: Tensor, reward_influence: Tensor
) -> Tensor:
    """The reward functions reweighted, each by its influence on the others' gradients.

        R'_i = R_i + sum_k (K w_k - 1) c_ik        which is sum_k K w_k c_ik where the components make up R_i

    w = reward_influence sums to 1, so equal weights change nothing. Rewards outside the components, such as turn
    rewards, stay. rewards, response_mask: [N, T]; reward_components: [N, K], weighted as the recipe says;
    reward_influence: [K]. Source: dynamic reward weighting, arXiv 2509.11452.
    """
    factors = len(reward_influence) * reward_influence - 1
    return _added(rewards, response_mask, (reward_components * factors).double().sum(dim=1))


def _added(rewards: Tensor, response_mask: Tensor, change: Tensor) -> Tensor:
    """`rewards` with each trajectory's `change` [N] on its last response token: [N, T] fp32."""
    kept = torch.where(response_mask, rewards, 0.0).double()
    return torch.where(last_tokens(response_mask), kept + change.unsqueeze(1), kept).float()

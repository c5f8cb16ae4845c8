"""Outcomes against the outcomes of the same prompt's other trajectories.

    R_i          outcome of trajectory i: its rewards on response tokens, summed
    mean_g, n    mean and number of the outcomes in i's group g

The mean of a group of one is its own outcome.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.marks import exact_on_policy, made_for_stale_samples
from llmrl.ops.shared.groups import group_centred, group_std, group_sums, members, present, spread, trajectory_rewards
from llmrl.ops.shared.ranges import require_positive
from llmrl.ops.shared.whitening import whiten as whitened
from llmrl.types import Credit


def grpo(
    rewards: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    normalize_std: bool = True,
    std_floor: float = 1e-6,
    batch_std: bool = False,
    whiten: bool = False,
) -> Credit:
    """Outcome against the group's mean, in units of the group's standard deviation.

        A_i = (R_i - mean_g R) / (std_g R + std_floor)       std unbiased (n - 1)
        A_i = (R_i - mean_g R) / (std R + std_floor)         batch_std: over all outcomes of the batch (Lite PPO)
        A_i =  R_i - mean_g R                                normalize_std = False (Dr.GRPO)
        A_i <- (A_i - mean A) / std A                        whiten: over all response tokens of the batch, last

    rewards, response_mask: [N, T]; group_ids: [N]. A group of one has credit 0 before whitening. REINFORCE++-baseline
    is whiten without normalize_std. Whitening counts tokens, so where length and outcome correlate it shifts the credit
    of equal outcomes off 0; a batch whose credit is all 0 stays 0. Raises ValueError if std_floor is not positive,
    since a group of equal outcomes has std 0, or if batch_std is set without normalize_std. Source: DeepSeekMath, arXiv
    2402.03300; Dr.GRPO, arXiv 2503.20783; Lite PPO, arXiv 2508.08221; REINFORCE++, arXiv 2501.03262.
    """
    require_positive(std_floor=std_floor)
    if batch_std and not normalize_std:
        raise ValueError("batch_std: True is not valid, expected False where normalize_std is False")
    found = trajectory_rewards(rewards, response_mask)
    credit = group_centred(found, response_mask, group_ids)
    if normalize_std:
        compared = torch.zeros_like(group_ids) if batch_std else group_ids
        credit = credit / (group_std(found, response_mask, compared) + std_floor)
    if whiten:
        return Credit(whitened(credit.unsqueeze(1).expand(rewards.shape), response_mask).float())
    return Credit(spread(credit, response_mask))


def rloo(rewards: Tensor, response_mask: Tensor, group_ids: Tensor) -> Credit:
    """Outcome against the mean outcome of the other members of its group: an unbiased baseline.

        A_i = R_i - mean_{j != i} R_j = n / (n - 1) * (R_i - mean_g R)

    rewards, response_mask: [N, T]; group_ids: [N]. A group of one, which dropped trajectories can leave, has credit 0.
    Source: Back to Basics, arXiv 2402.14740.
    """
    sizes = group_sums(present(response_mask), group_ids)
    centred = group_centred(trajectory_rewards(rewards, response_mask), response_mask, group_ids)
    return Credit(spread(centred * sizes / (sizes - 1).clamp(min=1), response_mask))


@exact_on_policy("its baseline is optimal only for the policy that sampled")
def opo(rewards: Tensor, response_mask: Tensor, group_ids: Tensor) -> Credit:
    """Outcome against the group's mean weighted by length: the baseline of least variance for exact on-policy steps.

        A_i = R_i - sum_g L R / sum_g L        L_i response tokens of i

    It is optimal where the squared norm of a trajectory's score grows as its length, and where every batch is
    used for one update. rewards, response_mask: [N, T]; group_ids: [N]. A group of one has credit 0.
    Source: OPO, arXiv 2505.23585.
    """
    found, lengths = trajectory_rewards(rewards, response_mask), response_mask.sum(dim=1).double()
    baseline = group_sums(lengths * found, group_ids) / group_sums(lengths, group_ids).clamp(min=1)
    return Credit(spread(found - baseline, response_mask))


@made_for_stale_samples
def asymre(rewards: Tensor, response_mask: Tensor, group_ids: Tensor, *, shift: float = -0.1) -> Credit:
    """Outcome against the group's mean plus a constant; a negative one makes off-policy successes weigh more.

        A_i = R_i - (mean_g R + shift)

    Equal outcomes and a group of one get credit -shift, not 0. rewards, response_mask: [N, T]; group_ids: [N].
    Source: Asymmetric REINFORCE, arXiv 2506.20520; default as in arXiv 2509.24203.
    """
    centred = group_centred(trajectory_rewards(rewards, response_mask), response_mask, group_ids)
    return Credit(spread(centred - shift, response_mask))


@made_for_stale_samples
def opmd(rewards: Tensor, response_mask: Tensor, group_ids: Tensor, *, temperature: float = 1.0) -> Credit:
    """Outcome against the group's soft maximum: the log-partition of the policy that mirror descent aims at.

        A_i = R_i - temperature * log mean_g exp(R / temperature)

    The baseline lies between the mean (temperature to infinity) and the maximum (to 0). rewards, response_mask: [N, T];
    group_ids: [N]; temperature in units of reward. Equal outcomes have credit 0. Raises ValueError if temperature is
    not positive. Source: Kimi k1.5, arXiv 2501.12599; REC, arXiv 2509.24203.
    """
    require_positive(temperature=temperature)
    found = trajectory_rewards(rewards, response_mask)
    credit = torch.zeros_like(found)
    for rows in members(response_mask, group_ids):
        below = found[rows] - found[rows].max()  # exp cannot overflow, and equal outcomes leave exactly 0
        credit[rows] = below - temperature * (below / temperature).exp().mean().log()
    return Credit(spread(credit, response_mask))


def gdpo(
    reward_components: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    weights: list[float] | None = None,
    std_floor: float = 1e-6,
) -> Credit:
    """Each reward function standardized in its group by itself, then their sum whitened over the batch.

        z_ik = (R_ik - mean_g R_k) / (std_g R_k + std_floor)        std unbiased
        s_i  = sum_k weights_k z_ik
        A_i  = (s_i - mean s) / std s                               over all trajectories of the batch

    Standardizing erases the size, though not the sign, of the recipe's reward weights, so `weights` gives new ones, in
    the order of the reward functions; default: all 1. Token rewards are not read. reward_components: [N, K];
    response_mask: [N, T]; group_ids: [N]. Raises ValueError if there is not one weight per component or std_floor is
    not positive. Source: GDPO, arXiv 2601.05242.
    """
    require_positive(std_floor=std_floor)
    count = reward_components.shape[1]
    if weights is not None and len(weights) != count:
        raise ValueError(f"weights: {weights} is not valid, expected one number for each of {count} reward functions")
    total = torch.zeros(len(response_mask), dtype=torch.float64, device=response_mask.device)
    for weight, component in zip(weights or [1.0] * count, reward_components.unbind(dim=1), strict=True):
        std = group_std(component, response_mask, group_ids)
        total += weight * group_centred(component, response_mask, group_ids) / (std + std_floor)
    return Credit(spread(whitened(total, response_mask.any(dim=1)), response_mask))

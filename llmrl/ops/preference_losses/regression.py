"""Squared losses that move a log ratio, or the difference of two, to a target."""

from __future__ import annotations

from torch import Tensor

from llmrl.ops.shared.ranges import require_positive


def ipo(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    chosen_lengths: Tensor,
    rejected_lengths: Tensor,
    *,
    tau: float = 0.1,
    per_token: bool = False,
) -> Tensor:
    """Identity preference optimisation: the margin's target is 1 / (2 tau) nats.

        loss = (D - 1 / (2 tau))^2        with per_token: D = u_w / |y_w| - u_l / |y_l|

    All [M]. per_token: the target is one of nats per token, so tau should be larger. Raises ValueError for tau <= 0.
    Source: arXiv 2310.12036.
    """
    require_positive(tau=tau)
    if per_token:
        margins = chosen_log_ratios / chosen_lengths - rejected_log_ratios / rejected_lengths
    else:
        margins = chosen_log_ratios - rejected_log_ratios
    return (margins - 1 / (2 * tau)).square()


def sppo(completion_log_ratios: Tensor, completion_rewards: Tensor, *, beta: float = 0.001) -> Tensor:
    """Self-play preference optimisation of each completion, whose reward is its probability of winning.

        loss = (u - (reward - 1/2) / beta)^2        0 where there is no reward

    Both [N]; rewards in [0, 1], such as 1 and 0 of a pair, which is the hard form. The reference should be the policy
    that wrote the completions. beta: 1 / eta of the paper. Raises ValueError for beta <= 0. Source: arXiv 2405.00675.
    """
    require_positive(beta=beta)
    known = completion_rewards.isfinite()
    targets = (completion_rewards.nan_to_num() - 0.5) / beta
    return (completion_log_ratios - targets.to(completion_log_ratios.dtype)).square() * known


def rpo_squared(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    *,
    beta: float = 0.2,
    reward_scale: float = 1.0,
) -> Tensor:
    """Reward-aware preference optimisation, squared: the margin follows the difference of the rewards.

        loss = (beta D - reward_scale (reward_w - reward_l))^2

    All [M]. Raises ValueError for beta or reward_scale <= 0. Source: Nemotron-4 340B, arXiv 2406.11704.
    """
    require_positive(beta=beta, reward_scale=reward_scale)
    gaps = reward_scale * (chosen_rewards - rejected_rewards)
    return (beta * (chosen_log_ratios - rejected_log_ratios) - gaps.to(chosen_log_ratios.dtype)).square()

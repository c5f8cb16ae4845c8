"""Logistic losses of the margin between the chosen and the rejected completion's log ratio."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from llmrl.ops.shared.ranges import refuse_negative, require_fraction, require_positive


def dpo(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """Direct preference optimisation.

        loss = -log sigmoid(beta D)

    All [M]. beta: strength of the pull to the reference. Raises ValueError for beta <= 0. Source: arXiv 2305.18290.
    """
    require_positive(beta=beta)
    return -logsigmoid(beta * (chosen_log_ratios - rejected_log_ratios))


def cdpo(
    chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.1
) -> Tensor:
    """Conservative DPO, for labels of which a share e is wrong: its optimum is sigmoid(beta D) = 1 - e.

        loss = -(1 - e) log sigmoid(beta D) - e log sigmoid(-beta D)        e = label_smoothing

    All [M]. Raises ValueError for beta <= 0 or label_smoothing outside [0, 0.5). Source: A note on DPO with noisy
    preferences, Mitchell 2023.
    """
    require_positive(beta=beta)
    _require_minority(label_smoothing)
    margins = beta * (chosen_log_ratios - rejected_log_ratios)
    return -(1 - label_smoothing) * logsigmoid(margins) - label_smoothing * logsigmoid(-margins)


def robust_dpo(
    chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.1
) -> Tensor:
    """Robust DPO: where a share e of the labels is flipped, its mean is the DPO loss of the true labels.

        loss = (-(1 - e) log sigmoid(beta D) + e log sigmoid(-beta D)) / (1 - 2e)        e = label_smoothing

    All [M]. The loss falls without bound as D grows, so negative values are no fault. Raises ValueError for beta <= 0
    or label_smoothing outside [0, 0.5). Source: arXiv 2403.00409.
    """
    require_positive(beta=beta)
    _require_minority(label_smoothing)
    margins = beta * (chosen_log_ratios - rejected_log_ratios)
    mixed = -(1 - label_smoothing) * logsigmoid(margins) + label_smoothing * logsigmoid(-margins)
    return mixed / (1 - 2 * label_smoothing)


def length_normalized_dpo(
    chosen_mean_log_ratios: Tensor, rejected_mean_log_ratios: Tensor, *, beta: float = 5.0
) -> Tensor:
    """DPO with log ratios per token, so that long completions have no larger margins.

        loss = -log sigmoid(beta (u_w / |y_w| - u_l / |y_l|))

    All [M]. beta: about the mean length times that of `dpo`. Raises ValueError for beta <= 0.
    Source: Tulu 3, arXiv 2411.15124.
    """
    require_positive(beta=beta)
    return -logsigmoid(beta * (chosen_mean_log_ratios - rejected_mean_log_ratios))


def ld_dpo(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    response_mask: Tensor,
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> Tensor:
    """DPO in which the longer completion's tokens beyond the length of the shorter one count alpha times.

        loss = -log sigmoid(beta D)        u = sum over t of (1 if t < min(|y_w|, |y_l|) else alpha) u_t

    logprobs, ref_logprobs, response_mask: [N, T]; chosen, rejected: [M] rows. alpha 1 is `dpo`. Raises ValueError for
    beta <= 0 or alpha outside [0, 1]. Source: length desensitization, arXiv 2409.06411.
    """
    require_positive(beta=beta)
    require_fraction(alpha=alpha)
    per_token = torch.where(response_mask, logprobs - ref_logprobs, 0.0)
    places, lengths = response_mask.cumsum(dim=1), response_mask.sum(dim=1)
    shared = torch.minimum(lengths[chosen], lengths[rejected])[:, None]

    def log_ratios(rows: Tensor) -> Tensor:
        return (per_token[rows] * torch.where(places[rows] <= shared, 1.0, alpha)).sum(dim=1)

    return -logsigmoid(beta * (log_ratios(chosen) - log_ratios(rejected)))


def dpop(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.3, penalty: float = 50.0) -> Tensor:
    """DPO-positive: also penalises a chosen completion that is less likely than under the reference.

        loss = -log sigmoid(beta (D - penalty max(0, -u_w)))

    All [M]. Made for pairs that differ in a few tokens. Raises ValueError for beta <= 0 or penalty < 0.
    Source: Smaug, arXiv 2402.13228.
    """
    require_positive(beta=beta)
    refuse_negative(penalty=penalty)
    fallen = torch.relu(-chosen_log_ratios)
    return -logsigmoid(beta * (chosen_log_ratios - rejected_log_ratios - penalty * fallen))


def wpo(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    chosen_mean_logprobs: Tensor,
    rejected_mean_logprobs: Tensor,
    *,
    beta: float = 0.01,
) -> Tensor:
    """DPO in which a pair weighs as much as the policy would write its completions.

        loss = -exp(A_w) exp(A_l) log sigmoid(beta D)        the weight without gradient

    All [M]. The paper's weight alignment, which divides by the policy's confidence at each token, is left out. Raises
    ValueError for beta <= 0. Source: weighted preference optimization, arXiv 2406.11827.
    """
    require_positive(beta=beta)
    weights = (chosen_mean_logprobs + rejected_mean_logprobs).detach().exp()
    return -weights * logsigmoid(beta * (chosen_log_ratios - rejected_log_ratios))


def _require_minority(label_smoothing: float) -> None:
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing: {label_smoothing} is not valid, expected a number from 0 to below 0.5")

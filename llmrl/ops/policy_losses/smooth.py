"""Losses of the ratio with a smooth bound in place of a clip."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import require_positive
from llmrl.ops.shared.ratio import as_ratio
from llmrl.types import TokenLoss


def sapo(log_ratio: Tensor, advantages: Tensor, *, tau_positive: float = 1.0, tau_negative: float = 1.05) -> TokenLoss:
    """Surrogate through a sigmoid gate: a token's gradient fades with its ratio's distance from 1 and is never 0.

        p_t = sigmoid(tau (r_t - 1))        tau = tau_positive where A_t > 0, else tau_negative
        loss_t = -A_t 4 p_t / tau           gradient on log pi(y_t): -A_t r_t 4 p_t (1 - p_t)

    log_ratio, advantages: [N, T]; r_t = exp(log_ratio_t). A larger tau fades sooner. stats: ratio; gate, the factor 4 p
    (1 - p) in [0, 1]. Raises ValueError if a tau is not positive. Source: SAPO, arXiv 2511.20347.
    """
    require_positive(tau_positive=tau_positive, tau_negative=tau_negative)
    ratio = as_ratio(log_ratio)
    tau = torch.where(advantages > 0, tau_positive, tau_negative)
    p = torch.sigmoid(tau * (ratio - 1))
    gate = (4 * p * (1 - p)).detach()
    return TokenLoss(-advantages * 4 * p / tau, {"ratio": ratio.detach(), "gate": gate})


def spo(log_ratio: Tensor, advantages: Tensor, *, epsilon: float = 0.2, max_log_ratio: float = 1.0) -> TokenLoss:
    """Surrogate minus a quadratic penalty whose optimum lies at ratio 1 + sign(A) epsilon: tokens past it come back.

        loss_t = -A_t r_t + |A_t| (r_t - 1)^2 / (2 epsilon)
        r_t = exp(clip(log_ratio_t, -max_log_ratio, max_log_ratio))

    log_ratio, advantages: [N, T]. The gradient grows like r^2; past max_log_ratio, in nats, it keeps its value at that
    bound. stats: ratio, not clipped. Raises ValueError if a setting is not positive.
    Source: Simple Policy Optimization, arXiv 2401.16025; the bound is for the ratios of language-model tokens.
    """
    require_positive(epsilon=epsilon, max_log_ratio=max_log_ratio)
    log_ratio = log_ratio.float()
    fixed = log_ratio.detach()
    ratio = as_ratio(fixed.clamp(-max_log_ratio, max_log_ratio) + (log_ratio - fixed))
    loss = -advantages * ratio + advantages.abs() * (ratio - 1).square() / (2 * epsilon)
    return TokenLoss(loss, {"ratio": as_ratio(fixed)})

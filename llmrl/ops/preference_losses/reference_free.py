"""Logistic losses without a reference."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from llmrl.ops.shared.ranges import refuse_negative, require_positive

MAX_EXPONENT = 80.0  # exp of it is still an fp32 number
MAX_MEAN_LOGPROB = -1e-6  # a completion that is certain would have infinite odds


def simpo(
    chosen_mean_logprobs: Tensor, rejected_mean_logprobs: Tensor, *, beta: float = 2.0, gamma: float = 1.0
) -> Tensor:
    """Simple preference optimisation: log-probabilities per token, with a target margin.

        loss = -log sigmoid(beta (A_w - A_l) - gamma)

    All [M]. gamma: the target margin, in the units of beta A. Raises ValueError for beta <= 0 or gamma < 0.
    Source: arXiv 2405.14734.
    """
    require_positive(beta=beta)
    refuse_negative(gamma=gamma)
    return -logsigmoid(beta * (chosen_mean_logprobs - rejected_mean_logprobs) - gamma)


def alphapo(
    chosen_mean_logprobs: Tensor,
    rejected_mean_logprobs: Tensor,
    *,
    beta: float = 2.5,
    gamma: float = 0.1,
    alpha: float = 0.25,
) -> Tensor:
    """SimPO with a reward whose shape alpha sets.

        loss = -log sigmoid(beta (r_w - r_l) - gamma)        r = (1 - exp(-alpha A)) / alpha, A for alpha 0

    All [M]. alpha > 0 makes the reward steeper for unlikely completions, alpha < 0 flatter. Raises ValueError for
    beta <= 0 or gamma < 0. Source: arXiv 2501.03884.
    """
    require_positive(beta=beta)
    refuse_negative(gamma=gamma)

    def rewards(means: Tensor) -> Tensor:
        return means if alpha == 0 else -torch.expm1((-alpha * means).clamp(max=MAX_EXPONENT)) / alpha

    return -logsigmoid(beta * (rewards(chosen_mean_logprobs) - rewards(rejected_mean_logprobs)) - gamma)


def cpo(chosen_logprobs: Tensor, rejected_logprobs: Tensor, *, beta: float = 0.1) -> Tensor:
    """Contrastive preference optimisation: DPO with a uniform reference.

        loss = -log sigmoid(beta (S_w - S_l))

    All [M]. CPO adds the chosen completion's negative log-likelihood. Raises ValueError for beta <= 0.
    Source: arXiv 2401.08417.
    """
    require_positive(beta=beta)
    return -logsigmoid(beta * (chosen_logprobs - rejected_logprobs))


def orpo(chosen_mean_logprobs: Tensor, rejected_mean_logprobs: Tensor) -> Tensor:
    """Odds ratio preference optimisation: the part with the odds.

        loss = -log sigmoid(o_w - o_l)        o = log odds(exp A) = A - log(1 - exp A)

    All [M], in fp32; A is held under -1e-6. ORPO adds the chosen completion's negative log-likelihood, beside which
    this loss has the weight 0.1. Source: arXiv 2403.07691.
    """
    return -logsigmoid(_log_odds(chosen_mean_logprobs) - _log_odds(rejected_mean_logprobs))


def _log_odds(means: Tensor) -> Tensor:
    held = means.float().clamp(max=MAX_MEAN_LOGPROB)
    return held - _log1mexp(held)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, each half by the function that keeps its digits."""
    near = x > -math.log(2)  # the branch that is not taken must have a finite gradient, too
    return torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, x, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, x))),
    )

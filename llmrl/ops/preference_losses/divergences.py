"""Losses made of divergences: other ones than the reverse KL as the pull to the reference, and as the loss itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from llmrl.ops.shared.ranges import refuse_negative, require_positive

MAX_EXPONENT = 80.0  # exp of it is still an fp32 number


def forward_kl_dpo(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """DPO under a penalty of the forward KL divergence to the reference.

        loss = -log sigmoid(beta (f(u_w) - f(u_l)))        f(u) = -exp(-u)

    All [M]; -u is held under 80. Raises ValueError for beta <= 0. Source: f-DPO, arXiv 2309.16240.
    """
    return alpha_dpo(chosen_log_ratios, rejected_log_ratios, beta=beta, alpha=1.0)


def alpha_dpo(
    chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.1, alpha: float = 0.5
) -> Tensor:
    """DPO under a penalty of the alpha divergence to the reference.

        loss = -log sigmoid(beta (f(u_w) - f(u_l)))        f(u) = -exp(-alpha u) / alpha

    All [M]; -alpha u is held under 80. Near alpha 0 it is `dpo`, at 1 `forward_kl_dpo`. Raises ValueError for beta <= 0
    or alpha outside (0, 1]. Source: f-DPO, arXiv 2309.16240.
    """
    require_positive(beta=beta)
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha: {alpha} is not valid, expected a number above 0 and at most 1")

    def transformed(log_ratios: Tensor) -> Tensor:
        return -torch.exp((-alpha * log_ratios).clamp(max=MAX_EXPONENT)) / alpha

    return -logsigmoid(beta * (transformed(chosen_log_ratios) - transformed(rejected_log_ratios)))


def jensen_shannon_dpo(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """DPO under a penalty of the Jensen-Shannon divergence to the reference.

        loss = -log sigmoid(beta (f(u_w) - f(u_l)))        f(u) = log sigmoid(u)

    All [M]. Raises ValueError for beta <= 0. Source: f-DPO, arXiv 2309.16240.
    """
    require_positive(beta=beta)
    return -logsigmoid(beta * (logsigmoid(chosen_log_ratios) - logsigmoid(rejected_log_ratios)))


def tdpo1(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    chosen_ref_kl: Tensor,
    rejected_ref_kl: Tensor,
    *,
    beta: float = 0.1,
) -> Tensor:
    """Token-level DPO: the margin is less the difference of the forward KL divergences along the completions.

        loss = -log sigmoid(beta (D - (K_l - K_w)))        K = sum_t KL(pi_ref(. | y_<t) || pi(. | y_<t))

    All [M]. Raises ValueError for beta <= 0. Source: arXiv 2404.11999.
    """
    require_positive(beta=beta)
    return -logsigmoid(beta * (chosen_log_ratios - rejected_log_ratios - rejected_ref_kl + chosen_ref_kl))


def tdpo2(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    chosen_ref_kl: Tensor,
    rejected_ref_kl: Tensor,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
) -> Tensor:
    """Token-level DPO in which the chosen completion's divergence has no gradient.

        loss = -log sigmoid(beta (D - alpha (K_l - stop_gradient(K_w))))        K as in `tdpo1`

    All [M]. Raises ValueError for beta <= 0 or alpha < 0. Source: arXiv 2404.11999.
    """
    require_positive(beta=beta)
    refuse_negative(alpha=alpha)
    gaps = alpha * (rejected_ref_kl - chosen_ref_kl.detach())
    return -logsigmoid(beta * (chosen_log_ratios - rejected_log_ratios - gaps))


def exo(
    chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.001
) -> Tensor:
    """Efficient exact optimisation: the reverse KL from the policy's preference to the label's.

        loss = KL(Bernoulli(sigmoid(beta D)) || Bernoulli(1 - e))        e = label_smoothing

    All [M]. Raises ValueError for beta <= 0 or label_smoothing outside (0, 0.5): at 0 the loss would be infinite.
    Source: arXiv 2402.00856.
    """
    require_positive(beta=beta)
    if not 0 < label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing: {label_smoothing} is not valid, expected a number above 0 and below 0.5, as the loss "
            f"of a certain label is infinite"
        )
    logits = beta * (chosen_log_ratios - rejected_log_ratios)
    return _bernoulli_kl(logits, torch.full_like(logits, math.log1p(-label_smoothing) - math.log(label_smoothing)))


def rpo_forward(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    *,
    beta: float = 0.2,
    reward_scale: float = 1.0,
) -> Tensor:
    """Reward-aware preference optimisation, forward: KL from the policy's preference to that of the rewards.

        loss = KL(Bernoulli(sigmoid(beta D)) || Bernoulli(sigmoid(reward_scale (reward_w - reward_l))))

    All [M]. Raises ValueError for beta or reward_scale <= 0. Source: Nemotron-4 340B, arXiv 2406.11704; the direction
    is named as in NeMo-Aligner.
    """
    require_positive(beta=beta, reward_scale=reward_scale)
    logits = beta * (chosen_log_ratios - rejected_log_ratios)
    return _bernoulli_kl(logits, (reward_scale * (chosen_rewards - rejected_rewards)).to(logits.dtype))


def rpo_backward(
    chosen_log_ratios: Tensor,
    rejected_log_ratios: Tensor,
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    *,
    beta: float = 0.2,
    reward_scale: float = 1.0,
) -> Tensor:
    """Reward-aware preference optimisation, backward: KL from the rewards' preference to that of the policy.

        loss = KL(Bernoulli(sigmoid(reward_scale (reward_w - reward_l))) || Bernoulli(sigmoid(beta D)))

    All [M]. Raises ValueError for beta or reward_scale <= 0. Source: Nemotron-4 340B, arXiv 2406.11704; the direction
    is named as in NeMo-Aligner.
    """
    require_positive(beta=beta, reward_scale=reward_scale)
    logits = beta * (chosen_log_ratios - rejected_log_ratios)
    return _bernoulli_kl((reward_scale * (chosen_rewards - rejected_rewards)).to(logits.dtype), logits)


def discopop(
    chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.05, tau: float = 0.05
) -> Tensor:
    """The loss that a language model found: a logistic and an exponential loss, blended by the margin.

        loss = -(1 - m) log sigmoid(x) + m exp(-x)        x = beta D, m = sigmoid(x / tau)

    All [M]; -x is held under 80. Raises ValueError for beta or tau <= 0. Source: DiscoPOP, arXiv 2406.08414.
    """
    require_positive(beta=beta, tau=tau)
    margins = beta * (chosen_log_ratios - rejected_log_ratios)
    blend = torch.sigmoid(margins / tau)
    return -(1 - blend) * logsigmoid(margins) + blend * torch.exp((-margins).clamp(max=MAX_EXPONENT))


def _bernoulli_kl(logits: Tensor, other_logits: Tensor) -> Tensor:
    """KL(Bernoulli(sigmoid(logits)) || Bernoulli(sigmoid(other_logits)))."""
    positive = torch.sigmoid(logits) * (logsigmoid(logits) - logsigmoid(other_logits))
    return positive + torch.sigmoid(-logits) * (logsigmoid(-logits) - logsigmoid(-other_logits))

"""From logits to log-probabilities and entropies of tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def log_probabilities(logits: Tensor) -> Tensor:
    """log softmax(logits) in fp32: [..., V] of any floating dtype to [..., V]."""
    return torch.log_softmax(logits.float(), dim=-1)


def entropies(log_p: Tensor) -> Tensor:
    """-sum_v p_v log p_v in nats: [..., V] log-probabilities to [...].

    A vocabulary entry at -inf has probability 0 and adds nothing.
    """
    # 0 * -inf is nan; with a finite number it is 0, the limit of p log p, and so is its multiple in the backward pass
    finite_log_p = log_p.clamp(min=-1e30)
    return -(log_p.exp() * finite_log_p).sum(dim=-1)


def divergences(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) = sum_v q_v (log q_v - log p_v) in nats: [..., V] log-probabilities each to [...]."""
    return (log_q.exp() * (log_q.clamp(min=-1e30) - log_p.clamp(min=-1e30))).sum(dim=-1)


def token_logprobs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy in nats of the distribution that it is drawn from.

        p = softmax(logits)      logprobs = log p[targets]      entropy = -sum_v p_v log p_v

    logits: [..., V] of any floating dtype; targets: [...] int64. Returns two fp32 tensors [...], both with
    gradient.
    """
    log_p = log_probabilities(logits)
    return log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropies(log_p)

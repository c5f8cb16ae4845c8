"""From logits to log-probabilities and entropies of tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def log_probabilities(logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) in fp32: [..., V] of any floating dtype to [..., V].

    The temperature must be the sampler's, or old and rollout log-probabilities are of different policies.
    Raises ValueError if the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature: {temperature} is not valid, expected a number above 0")
    return torch.log_softmax(logits.float() / temperature, dim=-1)


def entropies(log_p: Tensor) -> Tensor:
    """-sum_v p_v log p_v in nats: [..., V] log-probabilities to [...].

    A vocabulary entry at -inf has probability 0 and adds nothing.
    """
    # 0 * -inf is nan; with a finite number it is 0, the limit of p log p
    finite_log_p = log_p.clamp(min=torch.finfo(torch.float32).min)
    return -(log_p.exp() * finite_log_p).sum(dim=-1)


def token_logprobs(logits: Tensor, targets: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy in nats of the distribution that it is drawn from.

        p = softmax(logits / temperature)      logprobs = log p[targets]      entropy = -sum_v p_v log p_v

    logits: [..., V] of any floating dtype; targets: [...] int64. Returns two fp32 tensors [...], both with
    gradient. Raises ValueError if the temperature is not positive.
    """
    log_p = log_probabilities(logits, temperature=temperature)
    return log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1), entropies(log_p)

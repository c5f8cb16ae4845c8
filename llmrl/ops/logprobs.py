"""From logits to log-probabilities and entropies of tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def token_logprobs(logits: Tensor, targets: Tensor, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy in nats of the distribution that it is drawn from.

        p = softmax(logits / temperature)      logprobs = log p[targets]      entropy = -sum_v p_v log p_v

    logits: [..., V] of any floating dtype; targets: [...] int64. Returns two fp32 tensors [...], both with
    gradient. The temperature must be the sampler's, or old and rollout log-probabilities speak of different
    policies. A vocabulary entry at -inf has probability 0 and adds nothing to the entropy.
    Raises ValueError if the temperature is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature: {temperature} is not valid, expected a number above 0")
    log_p = torch.log_softmax(logits.float() / temperature, dim=-1)
    logprobs = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    # 0 * -inf is nan; a finite stand-in makes it the 0 that the limit of p log p is
    finite_log_p = log_p.clamp(min=torch.finfo(torch.float32).min)
    return logprobs, -(log_p.exp() * finite_log_p).sum(dim=-1)

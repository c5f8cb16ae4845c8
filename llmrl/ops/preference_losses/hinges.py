"""Hinge losses: pairs whose margin is wide enough have no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import refuse_negative, require_positive


def hinge(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.05) -> Tensor:
    """The hinge on the margin of log ratios.

        loss = max(0, 1 - beta D)

    All [M]. Raises ValueError for beta <= 0. Source: RSO, arXiv 2309.06657.
    """
    require_positive(beta=beta)
    return torch.relu(1 - beta * (chosen_log_ratios - rejected_log_ratios))


def slic(chosen_logprobs: Tensor, rejected_logprobs: Tensor, *, margin: float = 1.0) -> Tensor:
    """The hinge on the margin of log-probabilities, without a reference.

        loss = max(0, margin - S_w + S_l)

    All [M]; margin in nats. SLiC-HF adds the chosen completion's negative log-likelihood. Raises ValueError for
    margin < 0. Source: SLiC-HF, arXiv 2305.10425.
    """
    refuse_negative(margin=margin)
    return torch.relu(margin - chosen_logprobs + rejected_logprobs)

"""Logistic losses of the difference between the chosen and the rejected completion's log ratio."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from llmrl.ops.shared.ranges import require_positive


def dpo(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.1) -> Tensor:
    """Direct preference optimisation: -log sigmoid(beta (u_w - u_l)) of each pair: [M].

    beta: strength of the pull to the reference. Raises ValueError for beta <= 0. Source: arXiv 2305.18290.
    """
    require_positive(beta=beta)
    return -logsigmoid(beta * (chosen_log_ratios - rejected_log_ratios))

"""Losses of the distribution of all pairs: alignment by optimal transport."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from llmrl.marks import compares_all
from llmrl.ops.shared.ranges import require_positive


@compares_all
def aot(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    chosen_ref_logprobs: Tensor,
    rejected_ref_logprobs: Tensor,
    *,
    beta: float = 0.01,
) -> Tensor:
    """Alignment via optimal transport: the policy's margins, sorted, are compared with the reference's, sorted.

        loss of rank i = -log sigmoid(beta (sort_i(S_w - S_l) - sort_i(S_ref_w - S_ref_l)))

    All [M], over all pairs of an update. Raises ValueError for beta <= 0. Source: arXiv 2406.05882.
    """
    return _ranked(chosen_logprobs - rejected_logprobs, chosen_ref_logprobs - rejected_ref_logprobs, beta)


@compares_all
def aot_unpaired(chosen_log_ratios: Tensor, rejected_log_ratios: Tensor, *, beta: float = 0.01) -> Tensor:
    """Alignment via optimal transport, whichever rejected completion belongs to a chosen one.

        loss of rank i = -log sigmoid(beta (sort_i(u_w) - sort_i(u_l)))

    All [M], over all pairs of an update. Raises ValueError for beta <= 0. Source: arXiv 2406.05882.
    """
    return _ranked(chosen_log_ratios, rejected_log_ratios, beta)


def _ranked(higher: Tensor, lower: Tensor, beta: float) -> Tensor:
    """The loss of each rank, at the place of the pair that has this rank in `higher`."""
    require_positive(beta=beta)
    ordered, order = higher.sort(stable=True)
    losses = -logsigmoid(beta * (ordered - lower.sort(stable=True).values))
    return torch.zeros_like(losses).index_put((order,), losses)

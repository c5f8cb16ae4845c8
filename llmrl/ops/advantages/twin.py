"""Credit of whole turns by a critic of turns: what the turn is worth less what its state was worth."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.turns import on_tokens, turn_ends, turn_starts, turn_sums
from llmrl.ops.shared.twin import twin_heads
from llmrl.ops.shared.whitening import whiten as whitened
from llmrl.types import Credit


def twin_q(
    old_outputs: Tensor,
    old_outputs_after: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    *,
    highest: bool = False,
    whiten: bool = False,
) -> Credit:
    """The least estimate of a turn's Q less the least one of its state's V, the same on all tokens of the turn.

        A_k = min_j Q_j(turn k) - min_j V_j(state of turn k)

    highest: max in place of both min. whiten: subtract the mean and divide by the unbiased std, over turns.
    old_outputs, old_outputs_after: [N, T, H], see ops/shared/twin.py; response_mask, turn_ids: [N, T]. The critic's
    targets are those of value_targets.twin_td. Raises ValueError for an odd H.
    Source: ArCHer, arXiv 2402.19446; highest: Digi-Q, arXiv 2502.15760.
    """
    q, v = (one.amax(dim=-1) if highest else one.amin(dim=-1) for one in twin_heads(old_outputs, old_outputs_after))
    starts = turn_starts(response_mask, turn_ids)
    parts = torch.where(turn_ends(response_mask, turn_ids), q, 0.0) - torch.where(starts, v, 0.0)
    advantages = _on_turns(parts, response_mask, turn_ids)
    if whiten:
        advantages = _on_turns(torch.where(starts, whitened(advantages, starts), 0.0), response_mask, turn_ids)
    return Credit(advantages)


def implicit_q(old_outputs: Tensor, old_outputs_after: Tensor, response_mask: Tensor) -> Credit:
    """The least estimate of a token's Q less the mean one of V before it, by a twin critic of tokens.

        A_t = min_j Q_j(t) - mean_j V_j(t)

    old_outputs, old_outputs_after: [N, T, H], see ops/shared/twin.py; response_mask: [N, T]. The critic's targets are
    those of value_targets.implicit_td. Raises ValueError for an odd H. Source: ILQL, arXiv 2206.11871.
    """
    q, v = twin_heads(old_outputs, old_outputs_after)
    return Credit(torch.where(response_mask, q.amin(dim=-1) - v.mean(dim=-1), 0.0))


def _on_turns(parts: Tensor, response_mask: Tensor, turn_ids: Tensor) -> Tensor:
    """The sum over each turn's tokens, on all of these: [N, T]."""
    return on_tokens(turn_sums(parts, response_mask, turn_ids), response_mask, turn_ids)

"""Weights by how long turns took."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.turns import on_tokens, taken_turns, turn_starts, turn_sums


def turn_duration(turn_seconds: Tensor, response_mask: Tensor, turn_ids: Tensor) -> Tensor:
    """A turn weighs as its duration: in a fixed time, short ones are sampled more often.

        weight_t = dt_k / mean dt        over the turns of the batch, each of which counts once

    For samplers that go on without waiting for the slowest: of an action that takes dt, pi(a) T / dt samples are there
    after a time T, so that the plain mean leans to short actions. Where every episode of a step is awaited there is no
    such bias. Turns of which none took any time weigh 1. All [N, T], turn_ids rising along a row.
    Source: RL for machine learning engineering agents, Yang et al. 2026.
    """
    taken = taken_turns(response_mask, turn_ids)
    first = turn_starts(response_mask, turn_ids)
    seconds = turn_sums(torch.where(first, turn_seconds, 0.0), response_mask, turn_ids)
    mean = seconds[taken].mean() if taken.any() else seconds.new_zeros(())
    weights = torch.where(mean > 0, seconds / mean, 1.0)
    return on_tokens(weights, response_mask, turn_ids)

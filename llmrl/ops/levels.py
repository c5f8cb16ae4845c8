"""Critics whose outputs are the logits of a verifier's ordered outcomes, one output for each level."""

from __future__ import annotations

import torch
from torch import Tensor


def level_logprobs(outputs: Tensor, outcome_levels: Tensor) -> Tensor:
    """The log-probability that the logits give to each trajectory's level; meaningless where that is unknown, -1.

        log softmax(outputs)[level]

    outputs: [N, ..., H]; outcome_levels: [N] int64. Returns [N, ...] fp32.
    Raises ValueError for fewer than 2 outputs, or for a level that has no output.
    """
    count = outputs.shape[-1]
    if count < 2:
        raise ValueError(f"critic.outputs: {count} is not valid, expected at least 2, one for each outcome level")
    highest = int(outcome_levels.max()) if len(outcome_levels) else -1
    if highest >= count:
        raise ValueError(f"outcome_levels: {highest} is not valid, expected below {count}, the critic's outputs")
    shape = outputs.shape[:-1]
    index = outcome_levels.clamp(min=0).reshape(-1, *[1] * len(shape)).expand(*shape, 1)
    return torch.log_softmax(outputs.float(), dim=-1).gather(-1, index).squeeze(-1)

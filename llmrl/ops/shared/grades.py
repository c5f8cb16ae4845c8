"""Critics whose outputs are the logits of a verifier's ordered outcomes, one output for each grade."""

from __future__ import annotations

import torch
from torch import Tensor


def grade_logprobs(outputs: Tensor, grades: Tensor) -> Tensor:
    """The log-probability that the logits give to each trajectory's grade; meaningless where that is unknown, -1.

        log softmax(outputs)[grade]

    outputs: [N, ..., H]; grades: [N] int64. Returns [N, ...] fp32.
    Raises ValueError for fewer than 2 outputs, or for a grade that has no output.
    """
    count = outputs.shape[-1]
    if count < 2:
        raise ValueError(f"critic.outputs: {count} is not valid, expected at least 2, one for each grade")
    highest = int(grades.max()) if len(grades) else -1
    if highest >= count:
        raise ValueError(f"grades: {highest} is not valid, expected below {count}, the critic's outputs")
    shape = outputs.shape[:-1]
    index = grades.clamp(min=0).reshape(-1, *[1] * len(shape)).expand(*shape, 1)
    return torch.log_softmax(outputs.float(), dim=-1).gather(-1, index).squeeze(-1)

"""The steps of an answer's text."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import StringConstraints
from torch import Tensor

from llmrl.models.text import completes


def step_ids(
    token_ids: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    tokenizer: Any,
    *,
    delimiter: Annotated[str, StringConstraints(min_length=1)] = "\n\n",
) -> Tensor:
    """Which step of its answer a token belongs to, counted from 0, -1 off the response: [N, T].

    A step ends with the token that completes the delimiter, and with its turn.
    """
    found = torch.full_like(turn_ids, -1)
    for row, mask, sampled, turns in zip(found, response_mask, token_ids, turn_ids, strict=True):
        step, since = -1, []
        turn = None
        for column in mask.nonzero()[:, 0].tolist():
            if not since or int(turns[column]) != turn:
                step, since, turn = step + 1, [], int(turns[column])
            row[column] = step
            since.append(int(sampled[column]))
            if completes(tokenizer, since, [delimiter]):
                since = []
    return found

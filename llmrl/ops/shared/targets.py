"""Targets of a critic: [N, T], or [N, T, H] with one for each output; nan where there is none."""

from __future__ import annotations

import math

from torch import Tensor


def any_output(known: Tensor) -> Tensor:
    """Whether something is known of a token, or of one of its outputs: [N, T] or [N, T, H] to [N, T]."""
    return known if known.dim() == 2 else known.any(dim=-1)


def off_mask(targets: Tensor, response_mask: Tensor) -> Tensor:
    """Targets with nan off the mask [N, T]."""
    off = ~response_mask if targets.dim() == 2 else ~response_mask.unsqueeze(-1)
    return targets.masked_fill(off, math.nan)

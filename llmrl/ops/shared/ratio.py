"""From a log ratio to a ratio that cannot overflow."""

from __future__ import annotations

from torch import Tensor

from llmrl.ops.log_ratios import MAX_LOG_RATIO


def as_ratio(log_ratio: Tensor) -> Tensor:
    """exp(log_ratio) in fp32, the exponent held within +-MAX_LOG_RATIO."""
    return log_ratio.float().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()

"""The parts that policy losses with a bounded ratio share."""

from __future__ import annotations

from torch import Tensor


def past_bounds(
    ratio: Tensor, advantages: Tensor, clip_low: float | Tensor, clip_high: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Whether A pushed a ratio below 1 - clip_low, and whether above 1 + clip_high: [N, T] each."""
    return (advantages < 0) & (ratio < 1 - clip_low), (advantages > 0) & (ratio > 1 + clip_high)


def clip_stats(ratio: Tensor, low: Tensor, high: Tensor) -> dict[str, Tensor]:
    """Statistics of a loss with a lower and an upper bound: the ratio, and the tokens past each bound."""
    return {"ratio": ratio.detach(), "clip_fraction_low": low.float(), "clip_fraction_high": high.float()}


def one_with_gradient(log_ratio: Tensor) -> Tensor:
    """1 everywhere, with the gradient of `log_ratio`: r / sg(r) without an overflow."""
    return 1 + (log_ratio.float() - log_ratio.detach().float())

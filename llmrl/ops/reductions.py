"""Token weights [N, T]: the scalar loss of an optimizer step is sum(loss * weights).

Weights are computed once, on the whole batch of the step, and then cut with it into micro-batches and over
ranks. The sum over all parts is then the same loss with the same gradient however the batch was cut. Weights
are fp32 and 0 where response_mask is False.

    response_mask     1 1 1 1      token_mean    1/6 1/6 1/6 1/6      sequence_mean   1/8 1/8 1/8 1/8
                      1 1 . .                    1/6 1/6                              1/4 1/4
                      . . . .
"""

from __future__ import annotations

from torch import Tensor


def token_mean(response_mask: Tensor) -> Tensor:
    """Every response token of the step weighs the same.

        w_t = 1 / M        M = response tokens of the whole batch

    response_mask: [N, T] bool. Source: DAPO, arXiv 2503.14476.
    """
    return response_mask.float() / response_mask.sum().clamp(min=1)


def sequence_mean(response_mask: Tensor) -> Tensor:
    """Every trajectory weighs the same: the mean over trajectories of the mean over their tokens.

        w_it = 1 / (S L_i)        S = trajectories with response tokens, L_i = response tokens of i

    response_mask: [N, T] bool. Source: GRPO, arXiv 2402.03300; GSPO, arXiv 2507.18071.
    """
    lengths = response_mask.sum(dim=1, keepdim=True).clamp(min=1)
    return response_mask.float() / (lengths * _sequences(response_mask))


def fixed_length(response_mask: Tensor, *, length: int) -> Tensor:
    """Every token weighs the same in every step: sums over tokens divided by a constant, not by a length.

        w_t = 1 / (S length)        S = trajectories with response tokens

    response_mask: [N, T] bool; length: a constant in tokens, such as the completion limit, never the width of
    a batch. Raises ValueError if length is not positive. Source: Dr.GRPO, arXiv 2503.20783.
    """
    if length <= 0:
        raise ValueError(f"length: {length} is not valid, expected a number of tokens above 0")
    return response_mask.float() / (length * _sequences(response_mask))


def _sequences(response_mask: Tensor) -> Tensor:
    return response_mask.any(dim=1).sum().clamp(min=1)

"""How the outputs of a critic become one value per token.

outputs: [N, T, H], the critic's H heads for the prefix before token t. Everything is fp32 and carries gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmrl.marks import reads_chance, reads_heads, reads_logits, reads_places
from llmrl.ops.shared.ranges import require_positive, require_range
from llmrl.ops.shared.value_bins import bin_values, require_single


@reads_heads
def mean(outputs: Tensor) -> Tensor:
    """The mean of the heads; of a single head, its output.

        V_t = 1/H sum_j v_tj

    outputs: [N, T, H]. Returns [N, T]. Source: PPO, arXiv 1707.06347; several heads, CDE, arXiv 2509.09675.
    """
    return outputs.float().mean(dim=-1)


@reads_heads
def softmin(outputs: Tensor, *, temperature: float = 0.3) -> Tensor:
    """Smooth minimum of the heads: pessimistic where they disagree, their common value where they agree.

        V_t = -a (logsumexp_j(-v_tj / a) - log H)        a = temperature, in units of the value

    outputs: [N, T, H]. Returns [N, T], between the least head (a to 0) and the mean (a to infinity).
    Raises ValueError if the temperature is not positive. Source: SAFE, arXiv 2602.04651.
    """
    require_positive(temperature=temperature)
    heads = outputs.float()
    return -temperature * (torch.logsumexp(-heads / temperature, dim=-1) - math.log(heads.shape[-1]))


@reads_chance
def probability(outputs: Tensor) -> Tensor:
    """The probability whose logit the critic's output is.

        V_t = sigmoid(v_t)

    outputs: [N, T, 1]. Returns [N, T]. The loss is value_losses.bernoulli. Raises ValueError for several outputs.
    Source: direct advantage policy optimization, arXiv 2412.18279.
    """
    require_single(outputs)
    return outputs[..., 0].float().sigmoid()


@reads_heads
@reads_places
def bounded(outputs: Tensor, *, low: float = 0.0, high: float = 1.0) -> Tensor:
    """A value within the range of the rewards: the sigmoid of each head, on that range, and the mean over heads.

        V_t = low + (high - low) 1/H sum_j sigmoid(v_tj)

    outputs: [N, T, H]. Returns [N, T]. low and high must be those of the loss, value_losses.bounded. Raises ValueError
    for a low that is not below high. Source: BPCO, arXiv 2608.23566; the sigmoid is a reconstruction.
    """
    require_range(low, high)
    return low + (high - low) * outputs.float().sigmoid().mean(dim=-1)


@reads_logits
def expectation(outputs: Tensor, *, low: float, high: float) -> Tensor:
    """The mean of the distribution over K evenly spaced values whose logits the outputs are.

        V_t = sum_k softmax(outputs_t)_k z_k        z_1 = low, ..., z_K = high

    outputs: [N, T, K]. Returns [N, T]. low and high must be those of the loss, value_losses.categorical.
    Raises ValueError for a low that is not below high, and for fewer than 2 outputs.
    Source: C51, arXiv 1707.06887; Stop Regressing, arXiv 2403.03950.
    """
    return torch.softmax(outputs.float(), dim=-1) @ bin_values(outputs, low=low, high=high)

"""Drawing tokens from random numbers that a seed and a position decide, whatever else is drawn beside them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

GOLDEN, FIRST, SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""SplitMix64's constants, as int64."""


def draw_tokens(logits: Tensor, seeds: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """A token of each row with probability softmax(logits), and its log-probability: [N] int64, [N] fp32.

        arrival of i = -log(u_i) / rate of i        u_i uniform in (0, 1); the first is i with probability rate_i / sum

    First blocks of about sqrt(V) tokens race, each at the rate of its tokens' sum, then the tokens of the block that
    came first: a draw takes 2 sqrt(V) random numbers. u_i depends on the row's seed, its position and i alone, and a
    small change of the logits changes a draw as rarely as it can. A token at -inf is never drawn.
    logits: [N, V] of any floating dtype; seeds, positions (places in the row's own sequence of draws): [N] int64.
    """
    probabilities = torch.softmax(logits.float(), dim=-1)
    vocabulary = logits.shape[1]
    size = math.isqrt(vocabulary - 1) + 1
    keys = _mixed(_mixed(seeds) + positions)
    blocks = _first(_block_sums(probabilities, size), keys, torch.zeros_like(keys))
    start = blocks * size
    columns = start[:, None] + torch.arange(size, device=logits.device)
    inside = probabilities.gather(1, columns.clamp(max=vocabulary - 1)).masked_fill(columns >= vocabulary, 0.0)
    within = _first(inside, keys, vocabulary + start)
    return start + within, inside.gather(1, within[:, None])[:, 0].log()


def _block_sums(values: Tensor, size: int) -> Tensor:
    """The sums of consecutive blocks of `size` columns, of which the last may be shorter: [N, V] to [N, blocks]."""
    whole = values.shape[1] // size * size
    sums = values[:, :whole].unflatten(1, (-1, size)).sum(-1)
    rest = values[:, whole:].sum(-1, keepdim=True)
    return torch.cat([sums, rest], dim=1) if whole < values.shape[1] else sums


def _first(rates: Tensor, keys: Tensor, offsets: Tensor) -> Tensor:
    """The column that arrives first in each row: [N, K] rates to [N]; offsets [N]: the number of column 0."""
    numbers = offsets[:, None] + torch.arange(1, rates.shape[1] + 1, device=rates.device)
    return (-_uniform(keys[:, None] + numbers * GOLDEN).log() / rates.double()).argmin(1)


def _uniform(states: Tensor) -> Tensor:
    """Numbers in (0, 1), uniform to 52 bits: int64 to fp64."""
    return ((_mixed(states) >> 12 & 2**52 - 1).double() + 0.5) * 2.0**-52


def _mixed(states: Tensor) -> Tensor:
    """SplitMix64's output function, on which every bit of a state acts; int64 multiplication wraps around.

    Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014.
    """
    states = (states ^ (states >> 30 & 2**34 - 1)) * FIRST
    states = (states ^ (states >> 27 & 2**37 - 1)) * SECOND
    return states ^ (states >> 31 & 2**33 - 1)

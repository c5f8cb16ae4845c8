"""From hidden states to log-probabilities and entropies of tokens, with the logits of no more than a block at once.

Logits [R, V] of R tokens and V vocabulary entries are the largest tensors of training. `head_logprobs` goes over blocks
b of the vocabulary. Its backward pass computes a block's logits again and multiplies their gradient into those of the
hidden states and of the weight. With the softmax p_b inside a block, its entropy H_b, and its log-sum-exp L_b:

    L = log sum_b exp L_b      w_b = exp(L_b - L)      p = w_b p_b      H = sum_b w_b (H_b - log w_b)

    d logprobs_k / dz = onehot_k - p      d entropy / dz = -p (log p + H)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CPU_BLOCK_BYTES = 4 * 2**20
"""Of the logits of a block: they stay in the cache."""
BLOCK_BYTES = 128 * 2**20
"""The same on other devices, which want long kernels."""
LEAST_WIDTH = 512
"""Vocabulary entries of a block; rather than make it narrower, its tokens are divided."""
KEPT_BYTES = 32 * 2**20
"""Of the logits that are kept for the backward pass and not computed again."""
FORBIDDEN = -1e30
"""Stands for a bias of -inf: probability 0, and 0 times it is 0."""


@dataclass(frozen=True)
class Scaling:
    """From a head's output x to logits: z = cap tanh(factor x / cap) / temperature; factor x / temperature uncapped.

    temperature: the sampler's, or old and rollout log-probabilities are of different policies. Raises ValueError if it
    is not positive.
    """

    temperature: float = 1.0
    factor: float = 1.0
    cap: float | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature: {self.temperature} is not valid, expected a number above 0")

    def __call__(self, x: Tensor) -> Tensor:
        """The logits, with gradient, in fp32, or in fp64 if x is."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.tanh(x * (self.factor / self.cap)) * (self.cap / self.temperature) if self.cap else x * self.slope

    @property
    def slope(self) -> float:
        """dz / dx at x = 0."""
        return self.factor / self.temperature

    def apply_(self, x: Tensor) -> Tensor:
        """Change fp32 outputs to logits in place."""
        if self.cap:
            return x.mul_(self.factor / self.cap).tanh_().mul_(self.cap / self.temperature)
        return x if self.slope == 1 else x.mul_(self.slope)

    def bend(self, z: Tensor) -> Tensor | None:
        """1 - tanh^2 at logits z, which is dz / dx over the slope; None where there is no cap."""
        return (z * (self.temperature / self.cap)).square_().neg_().add_(1) if self.cap else None


def head_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    scaling: Scaling = Scaling(),
    entropy: bool = True,
    most_likely: int = 0,
) -> dict[str, Tensor]:
    """Log-probabilities of targets, and entropies in nats, of softmax(scaling(hidden weight^T + bias)).

        hidden [R, d]    weight [V, d]    bias [V] or None    targets [R, 1 + K] int64

        logprobs [R, 1 + K]            with gradient
        entropy [R]                    if asked for; with gradient
        old_top_ids, old_top_logprobs  [R, min(most_likely, V)], the most likely first, if asked for; without gradient

    Results are fp32, and logits are rounded to the dtype of hidden and weight, as a head's are; in fp64 all of it is
    fp64. A bias of -inf forbids a vocabulary entry. Beside inputs, results and gradients this holds a few blocks of
    logits, KEPT_BYTES of them for the backward pass, and [R, d] numbers in fp32.
    """
    learns = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (hidden, weight, bias))
    names = ("logprobs", "entropy", "old_top_ids", "old_top_logprobs")
    found = _HeadLogprobs.apply(hidden, weight, bias, targets, scaling, entropy, most_likely, learns)
    return {name: values for name, values in zip(names, found, strict=True) if values is not None}


@dataclass(frozen=True)
class _Blocks:
    """A head's logits of R tokens in blocks of at most `height` tokens and `width` entries of the vocabulary."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    scaling: Scaling
    width: int

    @classmethod
    def of(cls, hidden: Tensor, weight: Tensor, bias: Tensor | None, scaling: Scaling) -> _Blocks:
        width = max(LEAST_WIDTH, _bound(hidden) // max(1, len(hidden)))
        count = -(-len(weight) // width)
        return cls(hidden, weight, bias, scaling, -(-len(weight) // count))

    @property
    def height(self) -> int:
        return max(1, min(len(self.hidden), _bound(self.hidden) // self.width))

    @property
    def count(self) -> int:
        """The number of blocks side by side."""
        return -(-len(self.weight) // self.width)

    def __iter__(self) -> Iterator[tuple[int, slice, slice]]:
        """(number, rows, columns); the blocks of one number have the same columns, and follow each other."""
        tokens, vocabulary = len(self.hidden), len(self.weight)
        for number, left in enumerate(range(0, vocabulary, self.width)):
            columns = slice(left, min(left + self.width, vocabulary))
            for top in range(0, tokens, self.height):
                yield number, slice(top, min(top + self.height, tokens)), columns

    def new(self, *shape: int) -> Tensor:
        """An empty tensor for numbers that are not rounded."""
        return self.hidden.new_empty(shape, dtype=torch.promote_types(self.hidden.dtype, torch.float32))

    def rooms(self, count: int) -> list[Tensor]:
        """Memory for `count` blocks, to be used for one after the other."""
        return [self.new(self.height * self.width) for _ in range(count)]

    def logits(self, rows: slice, columns: slice, out: Tensor) -> Tensor:
        """Write a block's logits."""
        hidden, weight = self.hidden[rows], self.weight[columns]
        bias = None if self.bias is None else self.bias[columns].clamp(min=FORBIDDEN)
        if out.dtype != hidden.dtype:
            out.copy_(nn.functional.linear(hidden, weight, bias))
        elif bias is None:
            torch.mm(hidden, weight.T, out=out)
        else:
            torch.addmm(bias, hidden, weight.T, out=out)
        return self.scaling.apply_(out)

    def with_forbidden(self, z: Tensor) -> Tensor:
        """-inf where a logit was it."""
        return z if self.bias is None else z.masked_fill(z < FORBIDDEN * self.scaling.slope / 2, -torch.inf)


def _bound(hidden: Tensor) -> int:
    """The number of logits of a block."""
    return (CPU_BLOCK_BYTES if hidden.device.type == "cpu" else BLOCK_BYTES) // 4


def _fit(room: Tensor, rows: slice, columns: slice) -> Tensor:
    shape = rows.stop - rows.start, columns.stop - columns.start
    return room[: shape[0] * shape[1]].view(shape)


def _inside(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Which targets a block has, and their places in it; the place of another is any."""
    places, width = targets - columns.start, columns.stop - columns.start
    return (places >= 0) & (places < width), places.clamp(0, width - 1)


class _Likely:
    """The largest logits so far, [R, k], and their ids."""

    def __init__(self, blocks: _Blocks, k: int):
        tokens = len(blocks.hidden)
        self.values = blocks.new(tokens, k).fill_(-torch.inf)
        self.ids = torch.zeros(tokens, k, dtype=torch.int64, device=blocks.hidden.device)

    def see(self, z: Tensor, rows: slice, columns: slice) -> None:
        best = z.topk(min(self.values.shape[1], z.shape[1]), dim=1)
        values = torch.cat([self.values[rows], best.values], dim=1)
        ids = torch.cat([self.ids[rows], best.indices + columns.start], dim=1)
        self.values[rows], order = values.topk(self.values.shape[1], dim=1)
        self.ids[rows] = ids.gather(1, order)


class _Mean:
    """sum_v p_v (dz / dx)_v / slope weight_v over the blocks so far, without the first target's v: [R, d].

    With it the gradient with respect to hidden states needs no second pass over the vocabulary. That target is left
    out because a likely token's onehot - p is small, and would be lost where p is rounded to bf16.
    """

    def __init__(self, blocks: _Blocks, targets: Tensor):
        self._blocks = blocks
        self._targets = targets[:, :1]
        self.values = blocks.new(*blocks.hidden.shape).zero_()
        self._log_sums = blocks.new(len(blocks.hidden), 1).fill_(-torch.inf)

    def see(self, p: Tensor, z: Tensor, log_sum: Tensor, rows: slice, columns: slice) -> None:
        """p: softmax inside the block, which is used up; log_sum [r, 1]: of its logits z."""
        together = torch.logaddexp(self._log_sums[rows], log_sum)
        here, places = _inside(self._targets[rows], columns)
        p.scatter_(1, places, p.gather(1, places).masked_fill_(here, 0.0))
        p.mul_((log_sum - together).exp_())
        if (bend := self._blocks.scaling.bend(z)) is not None:
            p.mul_(bend)
        self.values[rows] *= (self._log_sums[rows] - together).exp_()
        _add_product(self.values[rows], p, self._blocks.weight[columns])
        self._log_sums[rows] = together


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left right, where `right` may be of a rounded dtype."""
    if right.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left.to(right.dtype) @ right


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scaling: Scaling,
        entropy: bool,
        most_likely: int,
        learns: bool,
    ) -> tuple[Tensor | None, ...]:
        blocks = _Blocks.of(hidden, weight, bias, scaling)
        tokens = len(hidden)
        # in fp64: a rounded log-sum-exp would make all of a token's probabilities too large, or all too small
        log_sums = blocks.new(tokens, blocks.count).double()
        entropies = torch.empty_like(log_sums)
        asked = blocks.new(*targets.shape).fill_(torch.nan)
        likely = _Likely(blocks, min(most_likely, len(weight))) if most_likely else None
        trains_head = any(ctx.needs_input_grad[1:3])
        # several targets' p would be lost in rounding, see _Mean
        suffices = targets.shape[1] == 1 or hidden.dtype == asked.dtype
        mean = _Mean(blocks, targets) if learns and not trains_head and suffices else None
        kept: list[Tensor] = []
        keeps = KEPT_BYTES // (4 * max(1, tokens) * blocks.width) if learns and not mean else 0
        room, p_room, shifted_room = blocks.rooms(3)
        for number, rows, columns in blocks:
            if number < keeps and not rows.start:
                kept.append(blocks.new(tokens, columns.stop - columns.start))
            z = blocks.logits(rows, columns, kept[number][rows] if number < keeps else _fit(room, rows, columns))
            here, places = _inside(targets[rows], columns)
            asked[rows] = torch.where(here, z.gather(1, places), asked[rows])
            if likely:
                likely.see(z, rows, columns)
            p = torch.softmax(z, dim=1, out=_fit(p_room, rows, columns))
            largest = z.amax(1, keepdim=True)
            spread = -p.amax(1, keepdim=True).log_()  # the largest p is 1 over the sum of exp(z - largest)
            log_sums[rows, number] = largest[:, 0].double() + spread[:, 0]
            if entropy:
                shifted = torch.sub(z, largest, out=_fit(shifted_room, rows, columns))
                entropies[rows, number] = spread[:, 0] - torch.linalg.vecdot(p, shifted)
            if mean:
                mean.see(p, z, largest + spread, rows, columns)
        log_sum = log_sums.logsumexp(1)
        whole = None
        if entropy:
            log_w = log_sums - log_sum[:, None]
            whole = (log_w.exp() * (entropies - log_w)).sum(1).to(asked.dtype)
        logprobs = (blocks.with_forbidden(asked) - log_sum[:, None]).to(asked.dtype)
        found: tuple[Tensor | None, ...] = (None, None)
        if likely:
            found = likely.ids, (blocks.with_forbidden(likely.values) - log_sum[:, None]).to(asked.dtype)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(x for x in found if x is not None))
        ctx.save_for_backward(
            hidden, weight, bias, targets, asked, log_sum, whole, None if mean is None else mean.values, *kept
        )
        ctx.scaling, ctx.width = scaling, blocks.width
        return logprobs, whole, *found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients_of: Tensor | None) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] of the decorator
        of_logprobs, of_entropy, _, _ = gradients_of
        hidden, weight, bias, targets, asked, log_sum, entropy, mean, *kept = ctx.saved_tensors
        if of_logprobs is None:
            of_logprobs = torch.zeros_like(asked)
        if mean is not None and of_entropy is None:
            gradient = _from_mean(mean, weight, targets, asked, log_sum, of_logprobs, ctx.scaling)
            return gradient.to(hidden.dtype), *[None] * 7
        reached = of_logprobs.any(1) if of_entropy is None else of_logprobs.any(1) | of_entropy.bool()
        if all_reached := bool(reached.all()):
            gradients = _Gradients(_Blocks(hidden, weight, bias, ctx.scaling, ctx.width), ctx.needs_input_grad)
        else:
            blocks = _Blocks(hidden[reached], weight, bias, ctx.scaling, ctx.width)
            gradients = _Gradients(blocks, ctx.needs_input_grad)
            targets, of_logprobs, log_sum = targets[reached], of_logprobs[reached], log_sum[reached]
            if of_entropy is not None:
                of_entropy, entropy = of_entropy[reached], entropy[reached]
            kept = [z[reached] for z in kept]
        gradients.collect(kept, targets, log_sum, entropy, of_logprobs, of_entropy)
        of_hidden = gradients.hidden
        if of_hidden is not None:
            of_hidden = of_hidden.to(hidden.dtype)
            if not all_reached:
                of_hidden = torch.zeros_like(hidden).index_put_((reached,), of_hidden)
        return of_hidden, gradients.weight, gradients.bias, *[None] * 5


def _from_mean(
    mean: Tensor,
    weight: Tensor,
    targets: Tensor,
    asked: Tensor,
    log_sum: Tensor,
    of_logprobs: Tensor,
    scaling: Scaling,
) -> Tensor:
    """The gradient of hidden states: slope (sum_k c_k (dz / dx)_k / slope weight_k - G mean), G the sum of all g_k.

    c_0 = g_0 - G p_0, as the mean is without the first target; c_k = g_k for the others.
    """
    whole = of_logprobs.sum(1)
    factors = of_logprobs.clone()
    factors[:, 0] -= whole * (asked[:, 0] - log_sum).exp_().to(asked.dtype)
    if (bend := scaling.bend(asked)) is not None:
        factors *= bend
    gradient = mean * -whole[:, None]
    for ids, factor in zip(targets.T, factors.T, strict=True):
        gradient.addcmul_(weight[ids].to(mean.dtype), factor[:, None])
    return gradient.mul_(scaling.slope)


class _Gradients:
    """Gradients of a head's inputs, as far as they are needed: of the hidden states, the weight, and the bias."""

    def __init__(self, blocks: _Blocks, needed: tuple[bool, ...]):
        self._blocks = blocks
        tokens = len(blocks.hidden)
        self.hidden = blocks.new(*blocks.hidden.shape).zero_() if needed[0] else None
        # every block is written once, unless there is no token to write it for
        self.weight = (torch.empty_like if tokens else torch.zeros_like)(blocks.weight) if needed[1] else None
        self.bias = None if blocks.bias is None or not needed[2] else torch.zeros_like(blocks.bias)
        divided = self.weight is not None and blocks.height < tokens
        self._part = blocks.new(blocks.width, blocks.hidden.shape[1]) if divided else None

    def collect(
        self,
        kept: list[Tensor],
        targets: Tensor,
        log_sum: Tensor,
        entropy: Tensor | None,
        of_logprobs: Tensor,
        of_entropy: Tensor | None,
    ) -> None:
        """Go over the blocks; kept: the logits of the first of them."""
        blocks, slope = self._blocks, self._blocks.scaling.slope
        of_logprobs, rounded = of_logprobs * slope, log_sum[:, None].to(of_logprobs.dtype)
        factor = (rounded - log_sum[:, None]).exp_().to(rounded.dtype)
        constant = -factor * of_logprobs.sum(1, keepdim=True)
        if of_entropy is not None:
            assert entropy is not None
            of_entropy = -slope * factor * of_entropy[:, None]
            constant += of_entropy * entropy[:, None]
        room, log_p_room, p_room = blocks.rooms(3)
        for number, rows, columns in blocks:
            again = number >= len(kept)
            z = blocks.logits(rows, columns, _fit(room, rows, columns)) if again else kept[number][rows]
            log_p = torch.sub(z, rounded[rows], out=_fit(log_p_room, rows, columns))
            of_z = torch.exp(log_p, out=_fit(p_room, rows, columns))
            of_z.mul_(constant[rows] if of_entropy is None else log_p.mul_(of_entropy[rows]).add_(constant[rows]))
            here, places = _inside(targets[rows], columns)
            of_z.scatter_add_(1, places, torch.where(here, of_logprobs[rows], 0.0))
            if (bend := blocks.scaling.bend(z)) is not None:
                of_z.mul_(bend)
            self._add(of_z, rows, columns)

    def _add(self, of_x: Tensor, rows: slice, columns: slice) -> None:
        """Add what a block's gradient with respect to the head's output gives."""
        blocks = self._blocks
        if self.hidden is not None:
            _add_product(self.hidden[rows], of_x, blocks.weight[columns])
        if self.bias is not None:
            self.bias[columns] += of_x.sum(0)
        if self.weight is None:
            return
        hidden = blocks.hidden[rows]
        if self._part is None:
            torch.mm(of_x.T.to(hidden.dtype), hidden, out=self.weight[columns])
            return
        part = self._part[: columns.stop - columns.start]
        if not rows.start:
            part.zero_()
        _add_product(part, of_x.T, hidden)
        if rows.stop == len(blocks.hidden):
            self.weight[columns] = part

"""The KL divergences of a reference's next-token distribution and the policy's, a block of the vocabulary at a time.

With the logits z of the policy and r of the reference, L_z and L_r their log-sum-exps, p and q their probabilities, and
b a block of the vocabulary whose own softmax is q_b or p_b and whose log-sum-exp is L_b:

    KL(q || p) = sum_b exp(L_b - L_r) sum_v q_b(v) (r_v - z_v) - L_r + L_z        d KL / dz = p - q
    KL(p || q) = sum_b exp(L_b - L_z) sum_v p_b(v) (z_v - r_v) - L_z + L_r        d KL / dz = p (log p - log q - KL)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from llmrl.ops.shared.head_logprobs import Scaling

BLOCK_LOGITS = 2**22
"""Of each of the two models in a block."""
LEAST_WIDTH = 512
"""Vocabulary entries of a block."""


@dataclass(frozen=True)
class Predictor:
    """Hidden states [R, d] and the linear head that makes logits of them: weight [V, d], bias [V] or None."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    def output(self, rows: slice, columns: slice) -> Tensor:
        """A block of the head's output in fp32, or in fp64 if it is."""
        bias = None if self.bias is None else self.bias[columns]
        x = nn.functional.linear(self.hidden[rows], self.weight[columns], bias)
        return x.to(torch.promote_types(x.dtype, torch.float32))


def head_kl(policy: Predictor, reference: Predictor, scaling: Scaling, *, reverse: bool = False) -> Tensor:
    """KL(reference || policy) in nats of each token over the whole vocabulary, with the policy's gradient: [R].

    Both have R tokens and V vocabulary entries; their widths d may differ. The scaling is applied to both. reverse:
    KL(policy || reference).
    """
    found = _HeadKL.apply(policy.hidden, policy.weight, policy.bias, reference, scaling, reverse)
    assert isinstance(found, Tensor)
    return found


def _blocks(tokens: int, vocabulary: int) -> Iterator[tuple[slice, list[slice]]]:
    """Rows, and the columns of their blocks."""
    height = max(1, min(tokens, BLOCK_LOGITS // LEAST_WIDTH))
    width = max(LEAST_WIDTH, BLOCK_LOGITS // height)
    columns = [slice(left, min(left + width, vocabulary)) for left in range(0, vocabulary, width)]
    for top in range(0, tokens, height):
        yield slice(top, min(top + height, tokens)), columns


class _HeadKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        reference: Predictor,
        scaling: Scaling,
        reverse: bool,
    ) -> Tensor:
        policy, tokens = Predictor(hidden, weight, bias), len(hidden)
        log_sums = hidden.new_empty(2, tokens, dtype=torch.float64)
        kl = hidden.new_empty(tokens, dtype=torch.promote_types(hidden.dtype, torch.float32))
        for rows, blocks in _blocks(tokens, len(weight)):
            of_policy, of_reference, gaps = [], [], []
            for columns in blocks:
                z, r = (scaling(one.output(rows, columns)) for one in (policy, reference))
                of_policy.append(z.double().logsumexp(1))
                of_reference.append(r.double().logsumexp(1))
                one, other = (z, r) if reverse else (r, z)
                p = one.softmax(1)
                gaps.append(torch.where(p > 0, p * (one - other), 0.0).double().sum(1))  # an entry may be forbidden
            policy_sums, reference_sums = torch.stack(of_policy), torch.stack(of_reference)
            log_sums[0, rows], log_sums[1, rows] = policy_sums.logsumexp(0), reference_sums.logsumexp(0)
            sums, (one, other) = (policy_sums if reverse else reference_sums), ((0, 1) if reverse else (1, 0))
            weights = (sums - log_sums[one, rows]).exp()
            whole = (weights * torch.stack(gaps)).sum(0) - log_sums[one, rows] + log_sums[other, rows]
            kl[rows] = whole.to(kl.dtype)
        ctx.save_for_backward(hidden, weight, bias, log_sums, kl)
        ctx.reference, ctx.scaling, ctx.reverse = reference, scaling, reverse
        return kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] of the decorator
        hidden, weight, bias, log_sums, kl = ctx.saved_tensors
        policy, (needs_hidden, needs_weight, needs_bias, *_) = Predictor(hidden, weight, bias), ctx.needs_input_grad
        sums, of_kl = log_sums.to(gradients[0].dtype), gradients[0]
        of_hidden = torch.zeros_like(hidden, dtype=of_kl.dtype) if needs_hidden else None
        of_weight = torch.zeros_like(weight, dtype=of_kl.dtype) if needs_weight else None
        of_bias = torch.zeros_like(bias, dtype=of_kl.dtype) if needs_bias else None
        for rows, blocks in _blocks(len(hidden), len(weight)):
            for columns in blocks:
                z = ctx.scaling(policy.output(rows, columns))
                r = ctx.scaling(ctx.reference.output(rows, columns))
                log_p, log_q = z - sums[0, rows, None], r - sums[1, rows, None]
                of_x = log_p.exp()
                if ctx.reverse:
                    of_x = torch.where(of_x > 0, of_x * (log_p - log_q - kl[rows, None]), 0.0)
                else:
                    of_x -= log_q.exp()
                of_x *= of_kl[rows, None] * ctx.scaling.slope
                if (bend := ctx.scaling.bend(z)) is not None:
                    of_x *= bend
                rounded = of_x.to(weight.dtype)
                if of_hidden is not None:
                    of_hidden[rows] += rounded @ weight[columns]
                if of_weight is not None:
                    of_weight[columns] += rounded.T @ hidden[rows]
                if of_bias is not None:
                    of_bias[columns] += of_x.sum(0)
        found = ((of_hidden, hidden), (of_weight, weight), (of_bias, bias))
        return *(None if gradient is None else gradient.to(one.dtype) for gradient, one in found), None, None, None

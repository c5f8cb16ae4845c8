"""The KL divergence from a reference's next-token distribution to the policy's, a block of the vocabulary at a time.

With the logits z of the policy and r of the reference, L_z and L_r their log-sum-exps, q the reference's probabilities,
and b a block of the vocabulary whose own softmax is q_b and whose log-sum-exp is L_b:

    KL(q || p) = sum_b exp(L_b - L_r) sum_v q_b(v) (r_v - z_v) - L_r + L_z        d KL / dz = p - q
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


def head_kl(policy: Predictor, reference: Predictor, scaling: Scaling) -> Tensor:
    """KL(reference || policy) in nats of each token over the whole vocabulary, with the policy's gradient: [R].

    Both have R tokens and V vocabulary entries; their widths d may differ. The scaling is applied to both.
    """
    found = _HeadKL.apply(policy.hidden, policy.weight, policy.bias, reference, scaling)
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
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, reference: Predictor, scaling: Scaling
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
                q = r.softmax(1)
                gaps.append(torch.where(q > 0, q * (r - z), 0.0).double().sum(1))  # an entry may be forbidden
            policy_sums, reference_sums = torch.stack(of_policy), torch.stack(of_reference)
            log_sums[0, rows], log_sums[1, rows] = policy_sums.logsumexp(0), reference_sums.logsumexp(0)
            weights = (reference_sums - log_sums[1, rows]).exp()
            whole = (weights * torch.stack(gaps)).sum(0) - log_sums[1, rows] + log_sums[0, rows]
            kl[rows] = whole.to(kl.dtype)
        ctx.save_for_backward(hidden, weight, bias, log_sums)
        ctx.reference, ctx.scaling = reference, scaling
        return kl

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride] of the decorator
        hidden, weight, bias, log_sums = ctx.saved_tensors
        policy, (needs_hidden, needs_weight, needs_bias, *_) = Predictor(hidden, weight, bias), ctx.needs_input_grad
        sums, of_kl = log_sums.to(gradients[0].dtype), gradients[0]
        of_hidden = torch.zeros_like(hidden, dtype=of_kl.dtype) if needs_hidden else None
        of_weight = torch.zeros_like(weight, dtype=of_kl.dtype) if needs_weight else None
        of_bias = torch.zeros_like(bias, dtype=of_kl.dtype) if needs_bias else None
        for rows, blocks in _blocks(len(hidden), len(weight)):
            for columns in blocks:
                z = ctx.scaling(policy.output(rows, columns))
                r = ctx.scaling(ctx.reference.output(rows, columns))
                of_x = (z - sums[0, rows, None]).exp() - (r - sums[1, rows, None]).exp()
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
        return *(None if gradient is None else gradient.to(one.dtype) for gradient, one in found), None, None

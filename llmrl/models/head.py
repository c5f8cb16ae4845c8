"""A policy's LM head: from the hidden states that predict tokens to log-probabilities, entropies, and its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmrl.models.outputs import gradient_norm, weighted_gradients
from llmrl.ops.shared.head_kl import Predictor, head_kl
from llmrl.ops.shared.head_logprobs import Scaling, head_logprobs
from llmrl.ops.shared.logprobs import divergences, entropies, log_probabilities, token_logprobs

LOGIT_BYTES_PER_SLICE = 64 * 2**20
TOP_TOKENS = 8
TOP = frozenset({"old_top_ids", "old_top_logprobs"})
LOG_PARTITION = "log_partition"
REF_KL, POLICY_KL = "ref_kl", "policy_kl"
DIVERGENCES = frozenset({REF_KL, POLICY_KL})


def scaling_of(config: Any, temperature: float) -> Scaling:
    """The scaling that some architectures apply to the head's output, then the temperature."""
    config = config.get_text_config()
    multiplied = getattr(config, "logit_scale", None) or 1.0  # Cohere
    divided = getattr(config, "logits_scaling", None) or 1.0  # Granite
    cap = getattr(config, "final_logit_softcapping", None) or None  # Gemma
    return Scaling(temperature, multiplied / divided, cap)


@dataclass(frozen=True)
class Head:
    """The LM head of a policy. agree_on_slices: from the number of slices of tokens that this process needs to the
    number in which it runs the module; ZeRO-3 makes them equal on all ranks."""

    module: Any
    scaling: Scaling
    vocabulary: int
    agree_on_slices: Callable[[int], int]

    def __call__(
        self, hidden: Tensor, targets: Tensor, wanted: frozenset[str], reference: Predictor | None = None
    ) -> dict[str, Tensor]:
        """hidden [R, d] to log-probabilities of targets [R, 1 + K], of the token itself, then others: the outputs of
        `Policy.forward`, [R, ...] each. reference: of the same tokens, for DIVERGENCES.

        A plain linear layer is called once, with `head_logprobs` for its forward: engines that divide its weights
        collect them in its call. Any other, such as one with an adapter, runs in slices of tokens, and again in the
        backward pass.
        """
        settings: dict[str, Any] = {
            "entropy": "entropy" in wanted,
            "most_likely": TOP_TOKENS if wanted & TOP else 0,
            "partition": LOG_PARTITION in wanted,
        }
        kls = sorted(wanted & DIVERGENCES) if reference is not None else []
        if getattr(self.module.forward, "__func__", None) is nn.Linear.forward:
            with self._forward_is(lambda h, t: self._fused(h, t, reference, kls, **settings)):
                found = self.module(hidden, targets)
        else:
            found = self._sliced(hidden, targets, reference, kls, **settings)
        asked = found.pop("logprobs")
        return found | {"logprobs": asked[:, 0]} | ({"top_logprobs": asked[:, 1:]} if asked.shape[1] > 1 else {})

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d] to all logits [..., V]."""
        return self.scaling(self.module(hidden))

    @torch.no_grad()
    def weight_gradient_norms(self, hidden: Tensor, targets: Tensor, lengths: list[int]) -> Tensor:
        """|| d(sum of log-probabilities) / dW ||_F of each trajectory: [N]; lengths: their numbers of tokens."""
        counts = [self._slices(length) for length in lengths]
        spare = self.agree_on_slices(sum(counts)) - sum(counts)
        norms = [
            gradient_norm(self._logit_gradients(h, t, count), h, self.vocabulary)
            for h, t, count in zip(hidden.split(lengths), targets.split(lengths), counts, strict=True)
        ]
        for _ in range(spare):
            self.module(hidden[:0])
        return torch.stack(norms)

    @torch.no_grad()
    def weight_gradients(self, hidden: Tensor, targets: Tensor, coefficients: Tensor) -> Tensor:
        """d(sum_r c_rk logprobs_r) / dW for coefficients [R, K]: [K, V, d]."""
        count = self.agree_on_slices(self._slices(len(hidden)))
        slices = self._logit_gradients(hidden, targets, count)
        return weighted_gradients(slices, hidden, coefficients, self.vocabulary)

    def _slices(self, tokens: int) -> int:
        """The number of slices of at most LOGIT_BYTES_PER_SLICE for so many tokens' logits; at least one, since every
        rank of a sharded engine has to run every layer."""
        return max(1, math.ceil(tokens / max(1, LOGIT_BYTES_PER_SLICE // (4 * self.vocabulary))))

    @contextmanager
    def _forward_is(self, forward: Callable[..., Any]) -> Iterator[None]:
        """In this context the module's hooks are around another function."""
        self.module.forward = forward
        try:
            yield
        finally:
            del self.module.forward  # its class's is seen again

    def _fused(
        self,
        hidden: Tensor,
        targets: Tensor,
        reference: Predictor | None,
        kls: Sequence[str],
        *,
        partition: bool,
        **settings: Any,
    ) -> dict[str, Tensor]:
        weight, bias = self.module.weight, self.module.bias
        found = head_logprobs(hidden, weight, bias, targets, scaling=self.scaling, **settings)
        if partition:  # a token's logit less its log-probability
            first = targets[:, 0]
            output = (hidden * weight[first]).sum(dim=-1) + (0.0 if bias is None else bias[first])
            found[LOG_PARTITION] = self.scaling(output) - found["logprobs"][:, 0]
        for name in kls:
            assert reference is not None
            policy = Predictor(hidden, weight, bias)
            found[name] = head_kl(policy, reference, self.scaling, reverse=name == POLICY_KL)
        return found

    def _sliced(
        self,
        hidden: Tensor,
        targets: Tensor,
        reference: Predictor | None,
        kls: Sequence[str],
        *,
        entropy: bool,
        most_likely: int,
        partition: bool,
    ) -> dict[str, Tensor]:
        def of_slice(hidden: Tensor, targets: Tensor, ref_hidden: Tensor) -> dict[str, Tensor]:
            logits = self.logits(hidden)
            log_p = log_probabilities(logits)
            found = {"logprobs": log_p.gather(-1, targets)}
            if partition:
                found[LOG_PARTITION] = torch.logsumexp(logits.float(), dim=-1)
            if reference is not None:
                of_reference = self.scaling(nn.functional.linear(ref_hidden, reference.weight, reference.bias))
                log_q = log_probabilities(of_reference)
                both = {REF_KL: (log_q, log_p), POLICY_KL: (log_p, log_q)}
                found |= {name: divergences(*both[name]) for name in kls}
            if entropy:
                found["entropy"] = entropies(log_p)
            if most_likely:
                best = log_p.detach().topk(min(most_likely, log_p.shape[-1]), dim=-1)
                found |= {"old_top_ids": best.indices, "old_top_logprobs": best.values}
            return found

        count = self.agree_on_slices(self._slices(len(hidden)))
        ref_hidden = hidden if reference is None else reference.hidden
        parts: list[Any] = [
            checkpoint(of_slice, *part, use_reentrant=False) if count > 1 else of_slice(*part)
            for part in zip(*(tensor.tensor_split(count) for tensor in (hidden, targets, ref_hidden)), strict=True)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _logit_gradients(self, hidden: Tensor, targets: Tensor, count: int) -> Iterator[Tensor]:
        """d log p(target) / dx of each token, x the head's output: [s, V] fp32, one slice after the other.

        Without a scaling this is onehot - p; autograd covers any.
        """
        for h, t in zip(hidden.tensor_split(count), targets.tensor_split(count), strict=True):
            x = self.module(h).float()
            with torch.enable_grad():
                x.requires_grad_()
                logprobs, _ = token_logprobs(self.scaling(x), t)
                [gradient] = torch.autograd.grad(logprobs.sum(), x)
            yield gradient

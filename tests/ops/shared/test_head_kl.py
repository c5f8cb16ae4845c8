"""The KL divergence of two heads, against the definition on all logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llmrl.ops.shared import head_kl as module
from llmrl.ops.shared.head_kl import Predictor, head_kl
from llmrl.ops.shared.head_logprobs import Scaling

TOKENS, VOCABULARY = 7, 1300


def predictor(seed: int, width: int, *, biased: bool, dtype: torch.dtype) -> Predictor:
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randn(TOKENS, width, generator=draw, dtype=torch.float64).to(dtype)
    weight = torch.randn(VOCABULARY, width, generator=draw, dtype=torch.float64).to(dtype)
    bias = torch.randn(VOCABULARY, generator=draw, dtype=torch.float64).to(dtype) if biased else None
    return Predictor(hidden, weight, bias)


def whole(policy: Predictor, reference: Predictor, scaling: Scaling, reverse: bool) -> Tensor:
    """From all logits at once."""
    logits = [scaling(torch.nn.functional.linear(one.hidden, one.weight, one.bias)) for one in (policy, reference)]
    log_p, log_q = (one.log_softmax(1) for one in logits)
    one, other = (log_p, log_q) if reverse else (log_q, log_p)
    return (one.exp() * (one - other)).sum(1)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("scaling", [Scaling(), Scaling(temperature=0.7, factor=1.3, cap=4.0)], ids=["plain", "capped"])
def test_blocks_add_up_to_the_whole_vocabulary(scaling, biased, reverse, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_LOGITS", 2 * module.LEAST_WIDTH)  # blocks of 2 tokens and 512 entries
    policy = predictor(0, 5, biased=biased, dtype=torch.float64)
    reference = predictor(1, 3, biased=biased, dtype=torch.float64)
    leaves = [x.requires_grad_() for x in (policy.hidden, policy.weight, policy.bias) if x is not None]
    weights = torch.arange(TOKENS).double()
    found = head_kl(policy, reference, scaling, reverse=reverse)
    expected = whole(policy, reference, scaling, reverse)
    assert torch.allclose(found, expected) and (found > 0).all()
    ours, theirs = (torch.autograd.grad((weights * kl).sum(), leaves) for kl in (found, expected))
    assert all(torch.allclose(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("reverse", [False, True])
def test_a_model_is_no_distance_from_itself(reverse):
    policy = predictor(0, 5, biased=False, dtype=torch.float32)
    hidden = policy.hidden.clone().requires_grad_()
    found = head_kl(Predictor(hidden, policy.weight, None), policy, Scaling(), reverse=reverse)
    found.sum().backward()
    assert found.abs().max() < 1e-6 and hidden.grad is not None and hidden.grad.abs().max() < 1e-6

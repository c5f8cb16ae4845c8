"""The log-sum-exp of a policy's logits, against the model's own, with its gradient; fused, and in slices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from llmrl.models.policy import Policy


class Sliced(nn.Linear):
    """A head whose forward is not a linear layer's, as one with an adapter."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input)


@pytest.mark.parametrize("sliced", [False, True])
def test_it_is_that_of_the_models_logits(sliced):
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=11, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, initializer_range=0.5, tie_word_embeddings=False,
    )  # fmt: skip
    lm: Any = Qwen3ForCausalLM(config)
    if sliced:
        lm.lm_head.__class__ = Sliced
    ids = torch.tensor([[3, 4, 5, 6]])
    mask = torch.tensor([[False, False, True, True]])
    found = Policy(lm, temperature=0.5)(ids, torch.ones_like(mask), mask, wanted=frozenset({"log_partition"}))
    own = torch.logsumexp(lm(input_ids=ids).logits / 0.5, dim=-1)[:, 1:3]
    torch.testing.assert_close(found["log_partition"][:, 2:], own)
    assert found["log_partition"][:, :2].eq(0).all()
    weight = lm.lm_head.weight
    ours, theirs = (torch.autograd.grad(one.sum(), weight)[0] for one in (found["log_partition"], own))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)

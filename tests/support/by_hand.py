"""What the tests of training compare with: sums over the fixed batch, trajectory by trajectory and token by token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from training_cases import TEMPERATURE, largest_difference

SHOWN = {"train": {"path": "unused", "completion": "text"}}
"""The data of a recipe that learns from demonstrations."""


def tokens_of(layout: str) -> list[int]:
    return [t for t, author in enumerate(layout) if author == "A"]


def log_p_of(lm: Any, token_ids: list[int]) -> Tensor:
    logits = lm(input_ids=torch.tensor([token_ids])).logits[0]
    return torch.log_softmax(logits / TEMPERATURE, dim=-1)


def naive_gradients(lm: Any, loss: Tensor) -> dict[str, Tensor]:
    lm.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in lm.named_parameters()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-3
    assert largest_difference(found, expected) < 1e-5 * max(1.0, largest)

"""Fields that depend on the step alone."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform_noise(token_ids: Tensor, seed: int) -> Tensor:
    """Random numbers in [0, 1) that depend on the step alone, not on ranks or micro-batches: [N, T]."""
    return torch.rand(token_ids.shape, generator=torch.Generator().manual_seed(seed))


def progress(share_done: float) -> Tensor:
    """The share of the stage's steps that is done: a single number."""
    return torch.tensor(share_done)


def staleness(policy_version: Tensor, steps_done: int) -> Tensor:
    """The training steps between the policy and the one that sampled a trajectory: [N]."""
    return (steps_done - policy_version).clamp(min=0)

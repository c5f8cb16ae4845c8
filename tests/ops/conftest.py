from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor


@dataclass
class Ragged:
    """Random rows with prompt, holes (environment tokens), padding, and one row without response tokens."""

    mask: Tensor
    group_ids: Tensor
    generator: torch.Generator

    def noise(self) -> Tensor:
        return torch.randn(self.mask.shape, generator=self.generator)

    def logprobs(self) -> Tensor:
        return torch.where(self.mask, -self.noise().abs(), 0.0)

    def rewards(self) -> Tensor:
        return torch.where(self.mask, self.noise(), 0.0)


def make_ragged(seed: int, rows: int = 9, width: int = 12) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, width, generator=generator) < 0.6
    ends = torch.randint(3, width + 1, (rows, 1), generator=generator)
    mask &= torch.arange(width) < ends
    mask[:, 0] = False
    mask[rows // 2] = False
    mask[: rows // 2, 1] = True
    # groups of different sizes, members apart, ids far from 0..G-1
    group_ids = torch.tensor([70, 3, 500])[torch.randint(0, 3, (rows,), generator=generator)]
    return Ragged(mask, group_ids, generator)


@pytest.fixture(scope="session")
def ragged():
    return make_ragged

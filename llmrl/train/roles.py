"""A Role: a named model in a run, with what trains it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.algorithm import Algorithm
from llmrl.models.policy import Policy
from llmrl.recipe import Training
from llmrl.train.engine import Engine
from llmrl.train.ranks import Ranks


@dataclass
class Role:
    """reference: frozen weights of their own; None when none is needed or LoRA's base is the reference."""

    name: str
    algorithm: Algorithm
    engine: Engine
    training: Training
    ranks: Ranks
    reference: Policy | None = None

    @torch.no_grad()
    def logprobs(self, *inputs: Tensor) -> Tensor:
        """The current policy's log-probabilities, without a gradient."""
        with self._measuring():
            return self.engine.forward(*inputs)[0]

    @torch.no_grad()
    def ref_logprobs(self, *inputs: Tensor) -> Tensor:
        """The reference's log-probabilities: its own weights, or this policy with its adapter switched off."""
        if self.reference is None:
            with self._measuring(), self.engine.policy.without_adapter():
                return self.engine.forward(*inputs)[0]
        return self.reference(*inputs)[0]

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Without the adapter's dropout: what sampled had none."""
        self.engine.policy.eval()
        try:
            yield
        finally:
            self.engine.policy.train()

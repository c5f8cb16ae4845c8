"""A watch on weights that ought to move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.engines.engine import Engine, Update
from llmrl.errors import RunStopped

FIRST = 10
"""After so many updates weights must have moved."""


@dataclass
class Movement:
    """Compares the weights whose names begin with `prefix` before the first update of a process with those after FIRST.

    Raises RunStopped if they are the same. Updates at a learning rate of 0, as in its warmup, do not count.
    """

    what: str
    engine: Engine
    prefix: str = ""
    updates: int = 0
    _before: Tensor | None = None

    def begin(self) -> None:
        """Call before each update; every rank does."""
        if self._before is None:
            self._before = self._sums()

    def after(self, done: Update) -> None:
        """Call after each update; every rank does."""
        self.updates += done.learning_rate > 0 and self.updates < FIRST + 1
        if self.updates == FIRST and self._before is not None:
            self.updates = FIRST + 1
            if torch.equal(self._before, self._sums()):
                raise RunStopped(
                    f"{self.what}: its weights are those of before its first {FIRST} updates (the last gradient's norm "
                    f"{done.grad_norm:.1e}, the learning rate: {done.learning_rate:.1e}), so it learns nothing; look "
                    f"at critic.learning_rate, value_loss and its targets, and training.dtype"
                )

    @torch.no_grad()
    def _sums(self) -> Tensor:
        """Two sums of each weight, of which at least one changes where a weight does."""
        found = [
            torch.stack([weight.double().sum(), weight.double().square().sum()]).cpu()
            for name, weight in self.engine.trained_weights().items()
            if name.startswith(self.prefix)
        ]
        return torch.cat(found) if found else torch.zeros(0)

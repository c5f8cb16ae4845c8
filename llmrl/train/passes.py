"""Running a model over a batch: each rank its share, in micro-batches, results joined on every rank."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from llmrl.algorithm import batch_data
from llmrl.data.packing import schedule
from llmrl.engines.ranks import Ranks
from llmrl.train.roles import Outputs, Role
from llmrl.types import Batch

SPARE = torch.tensor([0])


def over_ranks(role: Role, batch: Batch, forward: Callable[[Batch], Outputs]) -> Outputs:
    """`forward` over all rows, each rank its share: every output [N, T, ...] on every rank."""
    rows, parts = plan(role, batch), []
    for index in rows:
        found = forward(on_device(batch.rows(index if len(index) else SPARE), role.engine.device))
        if len(index):
            parts.append((index, {name: value.cpu() for name, value in found.items()}))
    return join(role.ranks, parts, *batch.token_ids.shape)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch's tensors on a device."""
    moved = {name: value.to(device) for name, value in batch_data(batch).items() if value is not None}
    return replace(batch, **moved)


def plan(role: Role, batch: Batch) -> list[Tensor]:
    """This rank's micro-batches of row indices; an empty one runs SPARE and does not count."""
    limit = role.training.tokens_per_micro_batch
    return schedule(batch.lengths, ranks=role.ranks.size, max_tokens=limit)[role.ranks.rank]


def join(ranks: Ranks, parts: list[tuple[Tensor, Outputs]], rows: int, width: int) -> Outputs:
    """Micro-batches' outputs put together over all ranks: [rows, width, ...], or [rows] without a token dimension."""
    whole: Outputs = {}
    for of_rank in ranks.gather(parts, "collecting what the model says"):
        for index, found in of_rank:
            for name, value in found.items():
                if name not in whole:
                    shape = (rows, width, *value.shape[2:]) if value.dim() > 1 else (rows,)
                    whole[name] = torch.zeros(shape, dtype=value.dtype)
                if value.dim() > 1:
                    whole[name][index, : value.shape[1]] = value
                else:
                    whole[name][index] = value
    return whole


class Sums:
    """Sums and counts of per-token statistics, joined over ranks into means."""

    def __init__(self) -> None:
        self._totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, values: Tensor, *, counted: bool = True) -> None:
        """Add values to a mean, or, where they are not counted, to an update's sum."""
        self._totals[name][0] += float(values.sum())
        self._totals[name][1] += values.numel() if counted else 0

    def add_tokens(self, stats: Mapping[str, Tensor], mask: Tensor) -> None:
        """Add the masked tokens of each statistic [N, T] to its mean."""
        for name, value in stats.items():
            self.add(name, value[mask])

    def means(self, ranks: Ranks, *, updates: int) -> dict[str, float]:
        """Every mean over all ranks, and of the sums of so many updates their mean."""
        parts = ranks.gather(dict(self._totals), "adding up metrics")
        means = {}
        for name in sorted({name for part in parts for name in part}):
            total = sum(part[name][0] for part in parts if name in part)
            count = sum(part[name][1] for part in parts if name in part)
            means[name] = total / (count or updates)
        return means

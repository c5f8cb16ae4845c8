"""Cutting a batch into micro-batches, each rank its share, and joining models' outputs over them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.data.prefixes import tree_of
from llmrl.data.schedule import schedule
from llmrl.engines.ranks import Ranks
from llmrl.types import Credit

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a batch that go through a model at once.

    counts: False if this rank has no rows left while others do: `rows` is then a stand-in whose results are dropped,
    because sharded engines synchronise in every pass. tokens: of its rows; places: that the model computes for them,
    more with padding, fewer with shared beginnings.
    """

    rows: Tensor
    counts: bool
    last: bool
    tokens: int
    places: int


def micro_batches(
    batch: Batch, ranks: Ranks, *, max_tokens: int, packed: bool, whole_groups: bool = False
) -> list[MicroBatch]:
    """This rank's micro-batches; every rank has equally many. packed: see llmrl.data.schedule. whole_groups: none of
    them parts a group."""
    lengths = batch.lengths.tolist()
    rows = [row[:length].numpy() for row, length in zip(batch.token_ids, lengths, strict=True)]
    groups = batch.group_ids.tolist() if whole_groups else None
    cuts = schedule(rows, ranks=ranks.size, max_tokens=max_tokens, packed=packed, groups=groups)[ranks.rank]
    found = []
    for number, cut in enumerate(cuts):
        chosen = cut.tolist() or [0]
        sizes = [lengths[row] for row in chosen]
        places = tree_of([rows[row] for row in chosen]).tokens if packed else len(sizes) * max(sizes)
        found.append(MicroBatch(torch.tensor(chosen), len(cut) > 0, number == len(cuts) - 1, sum(sizes), places))
    return found


def join(ranks: Ranks, parts: Sequence[tuple[Tensor, Outputs]], rows: int, width: int) -> Outputs:
    """Micro-batches' outputs put together over all ranks: [rows, width, ...], or [rows] without a token dimension."""
    whole: Outputs = {}
    for of_rank in ranks.gather(list(parts), "collecting what the model says"):
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


@dataclass(frozen=True)
class CreditedBatch:
    """A batch with its credit and the token weights of Algorithm.fixed_weights, both computed before it is cut."""

    batch: Batch
    credit: Credit
    fixed: Outputs

    def rows(self, index: Tensor) -> CreditedBatch:
        """The trajectories at `index`, trimmed to the longest of them."""
        batch = self.batch.rows(index)
        return self._map(batch, lambda tensor: tensor[index, : batch.token_ids.shape[1]])

    def to(self, device: torch.device) -> CreditedBatch:
        """The same on a device."""
        return self._map(self.batch.to(device), lambda tensor: tensor.to(device))

    def _map(self, batch: Batch, change: Callable[[Tensor], Tensor]) -> CreditedBatch:
        returns = self.credit.returns
        credit = Credit(change(self.credit.advantages), None if returns is None else change(returns))
        return CreditedBatch(batch, credit, {name: change(weight) for name, weight in self.fixed.items()})


class MetricSums:
    """Sums and counts of statistics, from which means over all ranks are made."""

    def __init__(self) -> None:
        self._totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, name: str, values: Tensor) -> None:
        """Add a part of an update's sum; the metric is the mean of these sums over the step's updates."""
        self._totals[name][0] += float(values.sum())

    def add_tokens(self, stats: Mapping[str, Tensor], mask: Tensor) -> None:
        """Add the masked tokens of each statistic [N, T]; the metric is their mean over tokens."""
        for name, value in stats.items():
            picked = value[mask]
            if not picked.numel():  # the metric is absent if it stays so, and never 0
                continue
            self._totals[name][0] += float(picked.sum())
            self._totals[name][1] += picked.numel()

    def add_share(self, name: str, part: float, whole: float) -> None:
        """Add a part and its whole; the metric is the sum of the parts over the sum of the wholes."""
        self._totals[name][0] += part
        self._totals[name][1] += whole

    def means(self, ranks: Ranks, *, updates: int, of: Mapping[str, int] | None = None) -> dict[str, float]:
        """The mean of every metric over all ranks; a metric of sums is divided by the number of updates.

        of: the number of those metrics that had another one.
        """
        parts = ranks.gather(dict(self._totals), "adding up metrics")
        means = {}
        for name in sorted({name for part in parts for name in part}):
            total = sum(part[name][0] for part in parts if name in part)
            count = sum(part[name][1] for part in parts if name in part)
            means[name] = total / (count or (of or {}).get(name, updates))
        return means

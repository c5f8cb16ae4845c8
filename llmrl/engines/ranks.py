"""The processes of a run. Each wait has a deadline, and its error names the missing ranks and the phase."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage]

from llmrl.errors import RunStopped


def start_process_group(device: torch.device) -> None:
    """Join the processes that the launcher started, or make a group of one."""
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


class Ranks:
    """This process among `size`; with one process every call returns at once."""

    def __init__(self, *, deadline_seconds: float = 1800.0):
        self.size = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self._deadline = timedelta(seconds=deadline_seconds)
        # objects are sent over gloo, since only gloo can say which rank is missing
        self._group: Any = dist.new_group(backend="gloo", timeout=self._deadline) if self.size > 1 else None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def barrier(self, phase: str) -> None:
        """Wait until every rank is here; raises RunStopped naming the ranks that are not."""
        if self.size == 1:
            return
        try:
            dist.monitored_barrier(self._group, timeout=self._deadline, wait_all_ranks=True)
        except RuntimeError as error:
            raise RunStopped(
                f"rank {self.rank} waited {self._deadline.total_seconds():.0f} s at '{phase}': {error}"
            ) from error

    def gather(self, thing: Any, phase: str) -> list[Any]:
        """The objects of all ranks, in rank order, on every rank."""
        if self.size == 1:
            return [thing]
        self.barrier(phase)
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, thing, group=self._group)
        return gathered

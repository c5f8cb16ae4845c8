"""The most memory that a process has held."""

from __future__ import annotations

import resource
from pathlib import Path

import torch


def peak_memory() -> float:
    """The most bytes that this process has held: on its GPU by torch's allocator, without a GPU in RAM."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return float(resident_peak() or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def resident_peak(pid: int | str = "self") -> int:
    """The most bytes of RAM that a process has held, since it runs its own program; 0 where that cannot be read.

    The kernel's ru_maxrss starts from what the process had that started this one.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(found[0][1]) if found else 0

"""The process groups that all vLLM engines of a process share: they last until the last engine closes.

An engine's shutdown destroys the groups of every other engine, and with them torch's default group, which may be the
trainer's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

_open: set[int] = set()
_own_group = False


@contextmanager
def begins(engine: object) -> Iterator[None]:
    """Inside this context an engine is made."""
    global _own_group
    if not _open:
        _own_group = not dist.is_initialized()
    _open.add(id(engine))
    try:
        yield
    except BaseException:
        _open.discard(id(engine))
        raise


@contextmanager
def ends(engine: object) -> Iterator[None]:
    """Inside this context an engine is shut down, which takes from others neither their groups nor the default one."""
    _open.discard(id(engine))
    core: Any = sys.modules["vllm.v1.engine.core"]
    clean_up, destroy = core.cleanup_dist_env_and_memory, dist.destroy_process_group
    if _open:
        core.cleanup_dist_env_and_memory = lambda: None
    elif not _own_group:
        dist.destroy_process_group = lambda group=None: None if group is None else destroy(group)
    try:
        yield
    finally:
        core.cleanup_dist_env_and_memory, dist.destroy_process_group = clean_up, destroy

"""Running of awaitables to their end, also inside a running event loop, as the two processes wait for each other."""

from __future__ import annotations

import importlib
from typing import Any

_LOOPS: list[Any] = []


def finish(awaitable: Any) -> Any:
    """Run an awaitable object to its end and return its result; tasks that it starts go on when a next one runs."""
    asyncio = importlib.import_module("asyncio")
    idle = [loop for loop in _LOOPS if not loop.is_running()]
    if not idle:
        idle.append(asyncio.new_event_loop())
        _LOOPS.append(idle[0])
    outer = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return idle[0].run_until_complete(_result(awaitable))
    finally:
        asyncio._set_running_loop(outer)


async def _result(awaitable: Any) -> Any:
    return await awaitable

"""The command `llmrl serve`: takes the port, loads the model, and answers until it is asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from aiohttp import web
from rich.console import Console

from llmrl.errors import RecipeError
from llmrl.serve.app import Limits, Server
from llmrl.serve.model import ServedModel

BACKLOG = 1024


def run(
    folder: Path,
    *,
    host: str,
    port: int,
    limits: Limits,
    dtype: Literal["fp32", "bf16"] | None,
    max_tokens: int | None,
    console: Console,
) -> int:
    """Serve the folder's reward model; returns exit code 0 after SIGTERM or SIGINT, when what ran is answered.

    Raises RecipeError for an address that is in use, before the model loads, and for a folder without a reward model.
    """
    with contextlib.closing(_bound(host, port)) as bound:
        model = ServedModel(folder, dtype=dtype, max_tokens=max_tokens)
        address = bound.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        asyncio.run(_serve(Server(model, limits), bound, lambda: _say(console, folder, f"http://{shown}:{address[1]}")))
    return 0


def _say(console: Console, folder: Path, url: str) -> None:
    console.print(f"serving {folder} on {url}", highlight=False, soft_wrap=True)


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to the address; port 0 gives a free one."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise RecipeError(f"--host: '{host}' is no address of this machine: {error.strerror}") from None
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen(BACKLOG)  # a second server on a port that is bound and does not listen yet would not be refused
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise RecipeError(
                f"--port: {port} is in use on {host}; expected a free port, or 0 to be given one"
            ) from None
        raise RecipeError(f"--port: {port} on {host} cannot be used: {error.strerror}") from None
    return bound


async def _serve(server: Server, bound: socket.socket, ready: Callable[[], None]) -> None:
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    runner = web.AppRunner(
        server.app(),
        access_log=None,
        handler_cancellation=True,  # a client that leaves takes its texts out of the queue
        shutdown_timeout=server.limits.deadline_seconds,
    )
    await runner.setup()
    await web.SockSite(runner, bound, backlog=BACKLOG).start()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stopped.set)
    ready()
    await stopped.wait()
    for one in (signal.SIGTERM, signal.SIGINT):  # a second signal ends the process at once
        loop.remove_signal_handler(one)
    await runner.cleanup()

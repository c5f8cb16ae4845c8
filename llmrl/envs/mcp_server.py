"""Servers of the Model Context Protocol as tools, over the standard input and output of a process."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from threading import Thread
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from pydantic import Field, PositiveFloat

from llmrl.envs.base import AuthorText
from llmrl.envs.packages import require
from llmrl.envs.toolbox import Description, Schema, Tool, Toolbox, ToolsGoneError
from llmrl.envs.tools import Text, ToolWorld, check_pattern, reader_of
from llmrl.errors import RecipeError, first_line
from llmrl.marks import brings_tools, settings_checked_by
from llmrl.types import Prompt


class McpServer:
    """A running server. It lives in a task of its own, since its connection is opened and closed in one task.

    start_seconds: the deadline of its start. `start` has to be awaited before anything else.
    """

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str], folder: str | None, *, start_seconds: float
    ):
        self._command, self._variables, self._folder = list(command), dict(variables), folder
        self._start_seconds = start_seconds
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._client: Any = None
        self._printed: Any = None
        self._lost = False
        self.tools: list[Description] = []

    async def start(self) -> None:
        """Start the server and ask for its tools; raises ToolsGoneError if it does not answer in time."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._live(ready), name=f"MCP server {self._command[0]}")
        try:
            async with asyncio.timeout(self._start_seconds):
                await ready
        except TimeoutError:
            await self.close()
            raise ToolsGoneError(f"{self} did not start within {self._start_seconds:g} s") from None

    @property
    def gone(self) -> bool:
        """Whether the server ended."""
        return self._lost or self._task is None or self._task.done()

    async def call(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """The text of a tool's result; raises RuntimeError with the text of one that says it is an error."""
        if self.gone:
            raise ToolsGoneError(f"{self} is not running")
        from mcp import MCPError
        from mcp.types import CONNECTION_CLOSED

        try:
            result = await self._client.call_tool(name, dict(arguments))
        except MCPError as error:
            if error.code != CONNECTION_CLOSED:
                raise
            self._lost = True
            raise ToolsGoneError(f"{self} ended: {first_line(error)}{self._last_line()}") from None
        text = "\n".join(part.text if hasattr(part, "text") else f"[{part.type}]" for part in result.content)
        if result.is_error:
            raise RuntimeError(text or f"{name} failed")
        return text

    async def close(self) -> None:
        """End the server; it is killed if it does not end by itself."""
        self._closing.set()
        if self._task is not None:
            with suppress(asyncio.CancelledError, Exception):
                await asyncio.shield(self._task)

    async def _live(self, ready: asyncio.Future[None]) -> None:
        from mcp import Client, StdioServerParameters, stdio_client

        parameters = StdioServerParameters(
            command=self._command[0], args=self._command[1:], env=self._variables, cwd=self._folder
        )
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as self._printed:
            try:
                async with Client(stdio_client(parameters, errlog=self._printed)) as self._client:
                    self.tools = await _listed(self._client)
                    if not ready.done():
                        ready.set_result(None)
                    await self._closing.wait()
            except Exception as error:  # of the process, the protocol or a listing
                self._lost = True
                if not ready.done():
                    told = f"{self} failed: {_innermost(error)}{self._last_line()}"
                    ready.set_exception(ToolsGoneError(told))

    def _last_line(self) -> str:
        """The last line that the server printed as an error."""
        self._printed.seek(0)
        lines = [line for line in self._printed.read().splitlines() if line.strip()]
        return f"; it printed: {lines[-1]}" if lines else ""

    def __str__(self) -> str:
        return f"the MCP server '{' '.join(self._command)}'"


async def _listed(client: Any) -> list[Description]:
    """The server's tools, of all pages."""
    found: list[Description] = []
    page = None
    while True:
        listed = await client.list_tools(cursor=page)
        for tool in listed.tools:
            function = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
            found.append(Description({"type": "function", "function": function}))
        page = listed.next_cursor
        if page is None:
            return found


def _innermost(error: BaseException) -> str:
    """The message of an exception, or of the first in a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return first_line(error)


_SHARED: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Any, asyncio.Task[McpServer]]] = WeakKeyDictionary()
"""The servers that episodes of an event loop share; closing the loop ends them."""


async def _shared(key: Any, server: McpServer) -> McpServer:
    """The running server of this key, started if there is none or if it ended."""
    servers = _SHARED.setdefault(asyncio.get_running_loop(), {})
    known = servers.get(key)
    if known is not None and known.done() and (known.cancelled() or known.exception() or known.result().gone):
        if not known.cancelled() and not known.exception():
            await known.result().close()
        known = None if servers.get(key) is known else servers.get(key)

    async def started() -> McpServer:
        await server.start()
        return server

    if known is None:
        known = servers[key] = asyncio.create_task(started())
    return await asyncio.shield(known)


@lru_cache(maxsize=16)
def _descriptions(
    command: tuple[str, ...], variables: tuple[tuple[str, str], ...], folder: str | None, start_seconds: float
) -> tuple[Description, ...]:
    """The tools of a server, which is started for this once; raises RecipeError if it does not start."""
    found: list[Description] = []
    faults: list[str] = []

    async def ask() -> None:
        server = McpServer(command, dict(variables), folder, start_seconds=start_seconds)
        try:
            await server.start()
            found.extend(server.tools)
        except ToolsGoneError as error:
            faults.append(f"env.mcp.command: {error}")
        finally:
            await server.close()

    thread = Thread(target=lambda: asyncio.run(ask()), name="MCP tools")  # the caller may be in an event loop
    thread.start()
    thread.join()
    if not found:
        raise RecipeError(*(faults or [f"env.mcp.command: the server '{' '.join(command)}' has no tools"]))
    return tuple(found)


def _check(*, command: Sequence[str], calls: str | None, **others: Any) -> None:
    require("mcp")
    if shutil.which(command[0]) is None:
        raise ValueError(f"command: no program '{command[0]}'")
    check_pattern(calls)


def _schemas(row: Mapping[str, Any], **settings: Any) -> list[Schema]:
    return [described.schema for described in _listed_once(**settings)]


def _listed_once(
    *, command: Sequence[str], variables: Mapping[str, str], folder: str | None, start_seconds: float, **others: Any
) -> tuple[Description, ...]:
    return _descriptions(tuple(command), tuple(sorted(variables.items())), folder, start_seconds)


@brings_tools(_schemas)
@settings_checked_by(_check)
def mcp(
    prompt: Prompt,
    authors: Mapping[str, AuthorText],
    *,
    command: Annotated[list[Text], Field(min_length=1)],
    variables: dict[str, str] = {},  # noqa: B006 (a setting is never changed)
    folder: Text | None = None,
    shared: bool = False,
    seconds: PositiveFloat = 30.0,
    start_seconds: PositiveFloat = 60.0,
    calls: Text | None = None,
) -> ToolWorld:
    """The tools of an MCP server that the actor may call until a turn without a call is the answer.

    command: the program and its arguments, which speak the protocol over standard input and output; variables: of its
    environment, beside PATH, HOME and the like; folder: where it runs. Its tools are listed once, before anything else
    loads, and stand in the prompt. Each episode has a server of its own, or all of a process share one that lives on
    (`shared`). A server that ended is a failure of the episode. seconds: the deadline of a call; start_seconds: of a
    server's start; calls: as for `tools`.
    """
    settings = {"command": command, "variables": variables, "folder": folder, "start_seconds": start_seconds}
    described = _listed_once(**settings)
    server = McpServer(command, variables, folder, start_seconds=start_seconds)

    async def start() -> None:
        nonlocal server
        if shared:
            server = await _shared((tuple(command), tuple(sorted(variables.items())), folder), server)
        else:
            await server.start()

    async def close() -> None:
        if not shared:
            await server.close()

    def tool(one: Description) -> Tool:
        return Tool(one, lambda arguments: server.call(one.name, arguments))

    toolbox = Toolbox([tool(one) for one in described], seconds)
    return ToolWorld(toolbox, reader_of(authors, calls), opening=start, close=close)

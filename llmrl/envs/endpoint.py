"""The endpoint of the policy in training: an OpenAI-compatible server on this machine, one for each event loop.

    http://127.0.0.1:PORT/KEY/v1/chat/completions        KEY is an episode's own

The server runs while a line is open, that is, while an episode has an agent.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmrl.envs.chat_requests import (
    AgentRequest,
    Answer,
    chat_body,
    chat_chunks,
    chat_request,
    fault_body,
    text_body,
    text_chunks,
    text_request,
)
from llmrl.errors import first_line
from llmrl.request_fields import RequestError

if TYPE_CHECKING:
    from aiohttp import web

HOST = "127.0.0.1"
BACKLOG = 1024
MOST_BODY_BYTES = 64 * 2**20
CLOSE_SECONDS = 2.0


class LineClosed(Exception):
    """An episode that is over, so that its agent gets no further answer."""


@dataclass(eq=False)
class Call:
    """A request of an agent that waits for its answer."""

    request: AgentRequest
    answer: asyncio.Future[Answer]


@dataclass(eq=False)
class Line:
    """An episode's line to the endpoint.

    url: the agent's base_url. models: the names that the agent may ask for; a single one stands for any name. calls:
    the requests that wait, in the order in which they came. refused: how many could not be answered; fault: the reason
    for the last one.
    """

    key: str
    url: str
    models: Sequence[str]
    calls: asyncio.Queue[Call] = field(default_factory=asyncio.Queue)
    refused: int = 0
    fault: str = ""
    open: set[asyncio.Future[Answer]] = field(default_factory=set)

    async def ask(self, request: AgentRequest) -> Answer:
        """The policy's answer; raises LineClosed if the episode ends before."""
        call = Call(request, asyncio.get_running_loop().create_future())
        self.open.add(call.answer)
        try:
            self.calls.put_nowait(call)
            return await call.answer
        finally:
            self.open.discard(call.answer)

    def hang_up(self) -> None:
        """Answer every waiting request with the episode's end."""
        for answer in self.open:
            if not answer.done():
                answer.set_exception(LineClosed("the episode is over"))


@dataclass(frozen=True)
class _Form:
    """How one kind of request is read, and its answer written."""

    read: Callable[[Any], AgentRequest]
    body: Callable[[Answer, str, str, int], dict[str, Any]]
    chunks: Callable[..., Iterator[dict[str, Any]]]


_CHAT = _Form(chat_request, chat_body, chat_chunks)
_TEXT = _Form(text_request, text_body, text_chunks)


class Endpoint:
    """The server of one event loop."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._changing = asyncio.Lock()
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._numbers = itertools.count(1)

    async def open(self, models: Sequence[str]) -> Line:
        """A new line; the first one starts the server."""
        async with self._changing:
            if self._runner is None:
                await self._start()
            key = secrets.token_urlsafe(24)
            line = self._lines[key] = Line(key, f"http://{HOST}:{self._port}/{key}/v1", models)
            return line

    async def close(self, line: Line) -> None:
        """Close a line; the last one stops the server."""
        self._lines.pop(line.key, None)
        line.hang_up()
        async with self._changing:
            if not self._lines and self._runner is not None:
                runner, self._runner = self._runner, None
                await runner.cleanup()

    async def _start(self) -> None:
        from aiohttp import web

        app = web.Application(client_max_size=MOST_BODY_BYTES)
        app.router.add_post("/{key}/v1/chat/completions", self._chat)
        app.router.add_post("/{key}/v1/completions", self._text)
        app.router.add_get("/{key}/v1/models", self._models)
        app.router.add_route("*", "/{path:.*}", self._elsewhere)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=CLOSE_SECONDS)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0, backlog=BACKLOG)
        await site.start()
        self._runner, self._port = runner, runner.addresses[0][1]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answered(request, _CHAT)

    async def _text(self, request: web.Request) -> web.StreamResponse:
        return await self._answered(request, _TEXT)

    async def _answered(self, request: web.Request, form: _Form) -> web.StreamResponse:
        line = self._lines.get(request.match_info["key"])
        if line is None:
            return _fault(401, "no episode has this base_url, or it is over", code="invalid_api_key")
        try:
            asked = form.read(json.loads(await request.read()))
            if len(line.models) > 1 and asked.model not in line.models:
                raise RequestError("model", asked.model, " or ".join(line.models), status=404)
            answer = await line.ask(asked)
        except RequestError as error:
            return _refused(line, error.status, error.message, param=error.field)
        except (ValueError, RecursionError) as error:
            return _refused(line, 400, f"body: {first_line(error)}, expected JSON in UTF-8")
        except LineClosed as error:
            return _fault(410, str(error), code="episode_over")
        about = answer, asked.model or line.models[0], f"answer-{next(self._numbers)}", int(time.time())
        if asked.stream:
            return await _streamed(request, form.chunks(*about, usage=asked.usage))
        return _json(form.body(*about))

    async def _models(self, request: web.Request) -> web.Response:
        line = self._lines.get(request.match_info["key"])
        if line is None:
            return _fault(401, "no episode has this base_url, or it is over", code="invalid_api_key")
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "llmrl"} for name in line.models]
        return _json({"object": "list", "data": models})

    async def _elsewhere(self, request: web.Request) -> web.Response:
        expected = "POST /v1/chat/completions, POST /v1/completions or GET /v1/models under the base_url"
        path = request.path.partition("/v1")
        fault = f"{request.method} {path[1] + path[2]}: no such endpoint, expected {expected}"
        if line := self._lines.get(path[0].strip("/")):
            return _refused(line, 404, fault)
        return _fault(404, fault)


_ENDPOINTS: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Endpoint] = weakref.WeakKeyDictionary()


def endpoint() -> Endpoint:
    """The endpoint of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _ENDPOINTS:
        _ENDPOINTS[loop] = Endpoint()
    return _ENDPOINTS[loop]


async def _streamed(request: web.Request, chunks: Iterator[dict[str, Any]]) -> web.StreamResponse:
    from aiohttp import web

    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for chunk in chunks:
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _refused(line: Line, status: int, message: str, *, param: str | None = None) -> web.Response:
    line.refused, line.fault = line.refused + 1, message
    return _fault(status, message, param=param)


def _fault(status: int, message: str, *, param: str | None = None, code: str | None = None) -> web.Response:
    return _json(fault_body(message, param=param, code=code), status=status)


def _json(body: dict[str, Any], *, status: int = 200) -> web.Response:
    from aiohttp import web

    return web.json_response(body, status=status)

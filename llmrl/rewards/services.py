"""Requests to services over HTTP: connections are kept, failed requests are repeated, every wait has a deadline.

All requests of a process are made in one thread with an event loop of its own: connections outlive the loops of those
who ask, and a sampler that keeps its own loop busy does not make answers late.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import os
import random
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator

from llmrl.errors import first_line, short
from llmrl.pieces import Piece

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

Result = TypeVar("Result")

REPEATED_STATUSES = frozenset({408, 409, 425, 429, *range(500, 600)})
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0
HEALTH_SECONDS = 3.0


class ServiceError(Exception):
    """A service that could not be reached, or that failed, at every attempt."""


class ReplyError(ValueError):
    """A reply of a service that is not what was asked for."""


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected the URL of a server, such as http://localhost:8800")
    _ = parts.port  # raises ValueError for a port that is no number
    return text.rstrip("/")


def _set_variable(name: str) -> str:
    if not os.environ.get(name):
        raise ValueError("expected the name of an environment variable that is set and holds the key")
    return name


Url = Annotated[str, AfterValidator(_base_url)]
"""The URL of a server, without a slash at its end."""
KeyVariable = Annotated[str, AfterValidator(_set_variable)]
"""The name of an environment variable that holds a key; recipes and run folders never hold the key itself."""


@dataclass(frozen=True)
class Service:
    """How a server is asked.

    seconds: the deadline of one request. attempts: how often a request is made before it fails. concurrency: requests
    of this process that run at the same time; others wait, without a deadline of their own. key_variable: see
    KeyVariable; the key is sent as a bearer token.
    """

    url: str
    seconds: float = 30.0
    attempts: int = 4
    concurrency: int = 32
    key_variable: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers of each request."""
        return {"Authorization": f"Bearer {os.environ[self.key_variable]}"} if self.key_variable else {}

    async def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Result]) -> Result:
        """The result of `read` for the reply to a request.

        A request is made again when no connection or no whole reply came in time, when the status says to (408, 429,
        5xx), and when the reply is no JSON or `read` raises ReplyError; the pause before that doubles, is jittered, and
        is at least the server's Retry-After. Raises TimeoutError, ServiceError or ReplyError, which name the URL.
        """
        return await _in_thread(_post(self, self.url + path, body, read))

    async def health_fault(self, path: str) -> str | None:
        """Ask once with a short deadline; returns in words what is wrong, or None if the service answers."""
        return await _in_thread(_health_fault(self, self.url + path))


async def health_fault(piece: Piece) -> str | None:
    """The fault, in words, of the service that a function is marked to ask; None if it answers, or without one.

    A piece among the function's settings is asked in its place.
    """
    inner = next((value for value in piece.settings.values() if isinstance(value, Piece)), None)
    mark = piece.mark("service")
    if inner is not None:
        return await health_fault(inner)
    if mark is None or not piece.settings.get("url"):
        return None
    return await Service(piece.settings["url"], key_variable=piece.settings.get("key_variable")).health_fault(
        mark.health
    )


@dataclass
class _Client:
    """The thread with the event loop in which this process makes its requests, and the connections that it keeps."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    places: dict[tuple[str, int], asyncio.Semaphore] = field(default_factory=dict)
    _session: ClientSession | None = None

    def __post_init__(self) -> None:
        threading.Thread(target=self.loop.run_forever, daemon=True, name="requests").start()

    @property
    def session(self) -> ClientSession:
        """The session that keeps the connections; it is made in the loop."""
        from aiohttp import ClientSession, TCPConnector

        if self._session is None:
            self._session = ClientSession(connector=TCPConnector(limit=0))
        return self._session

    def place(self, service: Service) -> asyncio.Semaphore:
        """The semaphore that bounds the requests to a service."""
        key = (service.url, service.concurrency)
        return self.places.setdefault(key, asyncio.Semaphore(service.concurrency))


@functools.cache
def _client() -> _Client:
    return _Client()


os.register_at_fork(after_in_child=_client.cache_clear)  # a forked process has no such thread


async def _in_thread(work: Coroutine[Any, Any, Result]) -> Result:
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, _client().loop))


async def _post(service: Service, url: str, body: Mapping[str, Any], read: Callable[[Any], Result]) -> Result:
    client = _client()
    async with client.place(service):
        for attempt in range(1, service.attempts + 1):
            try:
                return await _once(client.session, service, url, body, read)
            except _RepeatableError as error:
                if attempt == service.attempts:
                    times = f"after {attempt} attempts" if attempt > 1 else "at the only attempt"
                    raise error.kind(f"{url}: {error} ({times})") from None
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
                await asyncio.sleep(max(pause, min(error.retry_after, LONGEST_PAUSE)))
    raise AssertionError("attempts is at least 1")


class _RepeatableError(Exception):
    """A failed attempt that may be made again; kind: the exception to raise after the last one."""

    def __init__(self, message: str, kind: type[Exception] = ServiceError, retry_after: float = 0.0):
        super().__init__(message)
        self.kind, self.retry_after = kind, retry_after


async def _once(
    session: ClientSession, service: Service, url: str, body: Mapping[str, Any], read: Callable[[Any], Result]
) -> Result:
    """One attempt; raises _RepeatableError, or ReplyError for a request that the server refuses."""
    from aiohttp import ClientError, ClientTimeout

    try:
        deadline = ClientTimeout(total=service.seconds)
        async with session.post(url, json=body, headers=service.headers, timeout=deadline) as response:
            text = (await response.read()).decode("utf-8", errors="replace")
            status, retry_after = response.status, _retry_after(response)
    except TimeoutError:
        raise _RepeatableError(f"no reply within {service.seconds:g} seconds", TimeoutError) from None
    except (ClientError, OSError) as error:
        raise _RepeatableError(f"{type(error).__name__}: {first_line(error)}") from None
    if status in REPEATED_STATUSES:
        raise _RepeatableError(f"status {status}: {_said(text)}", retry_after=retry_after)
    if status != 200:
        raise ReplyError(f"{url}: status {status}: {_said(text)}")
    try:
        return read(json.loads(text))
    except ReplyError as error:
        raise _RepeatableError(str(error), ReplyError) from None
    except (ValueError, RecursionError):
        raise _RepeatableError(f"the reply is no JSON: {short(text)}", ReplyError) from None


def _retry_after(response: ClientResponse) -> float:
    """The seconds of the Retry-After header; 0 without one, and for a date."""
    try:
        seconds = float(response.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def _said(text: str) -> str:
    """The message of an error's body, in the forms that servers give it, else the body's beginning."""
    try:
        found = json.loads(text)
        found = found.get("error", found)
        return str(found["message"] if isinstance(found, dict) else found)[:300]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return short(text)


async def _health_fault(service: Service, url: str) -> str | None:
    from aiohttp import ClientError, ClientTimeout

    try:
        deadline = ClientTimeout(total=HEALTH_SECONDS)
        async with _client().session.get(url, headers=service.headers, timeout=deadline) as response:
            return None if response.status < 400 else f"{url} answers with status {response.status}"
    except TimeoutError:
        return f"{url} does not answer within {HEALTH_SECONDS:g} seconds"
    except (ClientError, OSError) as error:
        return f"nobody answers at {url}: {first_line(error)}"

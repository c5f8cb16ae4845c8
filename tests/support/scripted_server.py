"""An HTTP server that behaves as a script says, request by request."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

Behave = Callable[[dict[str, Any], asyncio.StreamWriter], Any]


def status(code: int, body: Any, **headers: str) -> Behave:
    """Answers with this status and JSON, or text as it is."""

    def behave(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        data = body(request) if callable(body) else body
        text = (data if isinstance(data, str) else json.dumps(data)).encode()
        lines = [f"HTTP/1.1 {code} Said", f"Content-Length: {len(text)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + text)

    return behave


def dies(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    """Promises a hundred bytes, sends some, and closes."""
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"scores": [')
    writer.close()


async def late(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    """Says nothing for longer than anyone waits."""
    await asyncio.sleep(30)


class Scripted:
    """What was asked, and over how many connections."""

    def __init__(self, script: Sequence[Behave]):
        self.script, self.requests, self.connections, self.url = list(script), [], 0, ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = json.loads(await reader.readexactly(int(fields.get("content-length", 0))) or "null")
                self.requests.append({"path": head.split()[1], "headers": fields, "body": body})
                behave = self.script.pop(0) if len(self.script) > 1 else self.script[0]
                result = behave(self.requests[-1], writer)
                if result is not None:
                    await result


@contextlib.asynccontextmanager
async def scripted(*script: Behave) -> AsyncIterator[Scripted]:
    """A server whose n-th request is met with the n-th behaviour; the last one is repeated."""
    found = Scripted(script)
    server = await asyncio.start_server(found.handle, "127.0.0.1", 0)
    found.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()

"""An OpenAI-compatible server whose judge follows a rule: the larger number is the better answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

ANSWERS = re.compile(r"<(answer\w*)>\s*(.*?)\s*</\1>", re.DOTALL)
Rule = Callable[["Judge", list[str], dict[str, Any]], str]


@dataclass
class Judge:
    """rule: the reply to the answers that a request shows. chances: label -> probability, where they are asked for."""

    rule: Rule
    chances: Callable[[list[str]], dict[str, float]] = lambda shown: {}
    requests: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        self.requests.append(body)
        shown = [text for _, text in ANSWERS.findall(body["messages"][0]["content"])]
        text = self.rule(self, shown, body)
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}}
        if body.get("logprobs") and self.chances(shown):
            parts = re.findall(r"\[\[|\]\]|[^\[\]]+", text)
            choice["logprobs"] = {"content": [self.token(one, shown) for one in parts]}
        return web.json_response({"id": "1", "object": "chat.completion", "choices": [choice]})

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    def token(self, text: str, shown: list[str]) -> dict[str, Any]:
        chances = self.chances(shown) if len(text) == 1 else {text: 1.0}
        likeliest = [{"token": token, "logprob": math.log(chance)} for token, chance in chances.items()]
        return {"token": text, "logprob": 0.0, "top_logprobs": likeliest}


def larger(judge: Judge, shown: list[str], body: dict[str, Any]) -> str:
    """The verdict on two numbers."""
    a, b = map(float, shown)
    return f"[[A]] would be easy to say, but: [[{'A' if a > b else 'B' if b > a else 'C'}]]"


@contextlib.asynccontextmanager
async def judging(rule: Rule, **settings: Any) -> AsyncIterator[Judge]:
    """A judge at `url`, which ends with /v1."""
    judge = Judge(rule, **settings)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", judge.answer)
    app.router.add_get("/v1/models", judge.models)
    async with TestServer(app) as server:
        judge.url = str(server.make_url("/v1"))
        yield judge


@contextlib.contextmanager
def judging_in_thread(rule: Rule) -> Iterator[Judge]:
    """As `judging`, for a run that has the event loop of this thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = judging(rule)
    try:
        yield asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(30)
        asyncio.run_coroutine_threadsafe(server.__aexit__(None, None, None), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)

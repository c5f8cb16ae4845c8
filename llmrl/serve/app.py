"""The HTTP application: endpoints, faults as JSON, deadlines, and metrics for Prometheus."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llmrl.errors import first_line
from llmrl.request_fields import RequestError
from llmrl.serve.batching import Batcher, QueueFullError, TooLargeError
from llmrl.serve.model import ServedModel
from llmrl.serve.requests import Rows, pooling_rows, score_rows

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
MOST_BODY_BYTES = 64 * 2**20
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass(frozen=True)
class Limits:
    """The bounds of a server: places of a batch, tokens that may wait, and seconds that a request may take."""

    batch_tokens: int = 16384
    queue_tokens: int = 1_000_000
    deadline_seconds: float = 60.0


class Server:
    """The endpoints of one reward model."""

    def __init__(self, model: ServedModel, limits: Limits):
        self.model, self.limits = model, limits
        self.registry = CollectorRegistry()
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizing")
        self._batcher = Batcher(
            model.scores,
            batch_tokens=limits.batch_tokens,
            queue_tokens=limits.queue_tokens,
            on_batch=self._count_batch,
        )
        self._requests = Counter("llmrl_requests", "Answered requests", ("endpoint", "status"), registry=self.registry)
        self._seconds = Histogram(
            "llmrl_request_seconds", "Time of a request", ("endpoint",), buckets=SECONDS, registry=self.registry
        )
        self._texts = Counter("llmrl_scored_texts", "Texts that were scored", registry=self.registry)
        self._tokens = Counter("llmrl_scored_tokens", "Tokens of these texts", registry=self.registry)
        self._padding = Counter("llmrl_padding_tokens", "Places of batches without a token", registry=self.registry)
        self._batches = Histogram(
            "llmrl_batch_texts", "Texts of a batch", buckets=[2**n for n in range(11)], registry=self.registry
        )
        for name, about, value in (
            ("llmrl_waiting_texts", "Texts that wait for a batch", lambda: self._batcher.waiting_texts),
            ("llmrl_waiting_tokens", "Tokens of these texts", lambda: self._batcher.waiting_tokens),
        ):
            Gauge(name, about, registry=self.registry).set_function(value)

    def app(self) -> web.Application:
        """The application for aiohttp."""
        app = web.Application(client_max_size=MOST_BODY_BYTES, middlewares=[self._answered])
        app.router.add_post("/score", self._score)
        app.router.add_post("/pooling", self._pooling)
        app.router.add_post("/classify", self._classify)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.on_cleanup.append(self._close)
        return app

    async def _score(self, request: web.Request) -> web.Response:
        outputs, _ = await self._outputs(request, score_rows)
        scores = [one[0] for one in outputs] if len(self.model.labels) == 1 else outputs
        return web.json_response({"scores": scores, "model": self.model.name, "labels": self.model.labels})

    async def _pooling(self, request: web.Request) -> web.Response:
        outputs = await self._as_vllm_gives_them(request)
        data = [{"index": place, "object": "pooling", "data": one} for place, one in enumerate(outputs)]
        return web.json_response({"object": "list", "model": self.model.name, "data": data})

    async def _classify(self, request: web.Request) -> web.Response:
        data = []
        for place, one in enumerate(await self._as_vllm_gives_them(request)):
            label = self.model.labels[one.index(max(one))]
            data.append({"index": place, "label": label, "probs": one, "num_classes": len(one)})
        return web.json_response({"object": "list", "model": self.model.name, "data": data})

    async def _as_vllm_gives_them(self, request: web.Request) -> list[list[float]]:
        """The outputs, activated if the request says so, or says nothing and the model is no regression."""
        outputs, body = await self._outputs(request, pooling_rows)
        asked = body.get("use_activation")
        activates = self.model.activates if asked is None else asked
        return [_activated(one) for one in outputs] if activates else outputs

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"status": "ok", "model": self.model.name, "labels": self.model.labels, "max_tokens": self.model.max_tokens}
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), content_type="text/plain", charset="utf-8")

    async def _outputs(
        self, request: web.Request, read: Callable[[Any, ServedModel], Rows]
    ) -> tuple[list[list[float]], dict[str, Any]]:
        """The model's outputs for the texts of a request, and its body."""
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError) as error:
            raise RequestError("body", first_line(error), "JSON in UTF-8") from None
        async with asyncio.timeout(self.limits.deadline_seconds):
            rows = await asyncio.get_running_loop().run_in_executor(self._tokenizing, read, body, self.model)
            outputs = await self._batcher.scores(rows)
        if not all(math.isfinite(number) for one in outputs for number in one):
            raise ArithmeticError("the model's score is not a finite number")
        return outputs, body

    def _count_batch(self, rows: Sequence[Sequence[int]]) -> None:
        tokens = sum(map(len, rows))
        self._texts.inc(len(rows))
        self._tokens.inc(tokens)
        self._padding.inc(len(rows) * max(map(len, rows)) - tokens)
        self._batches.observe(len(rows))

    @web.middleware
    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The handler's answer, or its fault as JSON; both are counted."""
        started, known = time.monotonic(), request.match_info.route.resource
        endpoint = known.canonical if known else "other"
        response = await self._with_faults_as_json(request, handler)
        self._requests.labels(endpoint, str(response.status)).inc()
        self._seconds.labels(endpoint).observe(time.monotonic() - started)
        return response

    async def _with_faults_as_json(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except RequestError as error:
            about = {"field": error.field, "value": _shown(error.value), "expected": error.expected}
            return _fault(error.status, error.message, **about)
        except TooLargeError as error:
            return _fault(413, str(error))
        except QueueFullError as error:
            return _fault(503, str(error), headers={"Retry-After": str(error.seconds)})
        except TimeoutError:
            return _fault(504, f"no score within the server's deadline of {self.limits.deadline_seconds:g} seconds")
        except web.HTTPMethodNotAllowed as error:
            expected = " or ".join(sorted(error.allowed_methods))
            return _fault(405, f"{request.path}: got {request.method}, expected {expected}", headers=error.headers)
        except web.HTTPNotFound:
            return _fault(404, f"{request.path}: no such endpoint, expected /score, /pooling, /classify or /health")
        except web.HTTPRequestEntityTooLarge:
            return _fault(413, f"body: got more than {MOST_BODY_BYTES} bytes, expected at most that")
        except web.HTTPException as error:
            return _fault(error.status, error.reason)
        except Exception as error:
            return _fault(500, f"the model failed: {type(error).__name__}: {first_line(error)}")

    async def _close(self, app: web.Application) -> None:
        self._batcher.close()
        self._tokenizing.shutdown(wait=False)


def _activated(outputs: Sequence[float]) -> list[float]:
    """The sigmoid of one output, the softmax of several."""
    if len(outputs) == 1:
        return [0.5 * (1 + math.tanh(0.5 * outputs[0]))]
    weights = [math.exp(one - max(outputs)) for one in outputs]
    return [weight / math.fsum(weights) for weight in weights]


def _shown(value: Any) -> Any:
    """A value that is short as JSON, else its text."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return value if isinstance(value, str) and len(value) <= 200 else repr(value)[:200]


def _fault(status: int, message: str, *, headers: Any = None, **about: Any) -> web.Response:
    kept = {name: value for name, value in (headers or {}).items() if name in ("Retry-After", "Allow")}
    return web.json_response({"error": {"message": message, **about}}, status=status, headers=kept)

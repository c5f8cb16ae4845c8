"""Judges: language models behind an OpenAI-compatible endpoint that compare answers, or score them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from llmrl.data.messages import transcript
from llmrl.marks import asks_service
from llmrl.rewards.opinions import Opinion, Pair
from llmrl.rewards.rubric import AnswerRubric, PairRubric, rubric_of
from llmrl.rewards.services import KeyVariable, ReplyError, Service, ServiceError, Url
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.verdicts import Reply, UnreadableError, preference, reply_of, score
from llmrl.types import Failure, Group, Prompt, Score, Trajectory

MOST_ALTERNATIVES = 20
REPEATED_TEMPERATURE = 0.7
"""The least temperature of a repeated question: at 0 a judge would repeat its unreadable reply."""


class Verdict(NamedTuple):
    """A judge's number, and how many replies before that could not be read."""

    value: float
    unreadable: int


@dataclass(frozen=True)
class Judge:
    """A model behind a chat-completions endpoint; `asks`: how often it is asked for a reply that can be read."""

    service: Service
    model: str
    logprobs: bool = False
    temperature: float = 0.0
    max_tokens: int = 1024
    asks: int = 3
    request: Mapping[str, Any] = field(default_factory=dict)

    async def verdict(self, text: str, read: Callable[[Reply], float]) -> Verdict:
        """The result of `read` for the reply to a text.

        Raises ReplyError when the last reply cannot be read either, and what Service.post raises.
        """
        last = ""
        for ask in range(self.asks):
            temperature = self.temperature if ask == 0 else max(self.temperature, REPEATED_TEMPERATURE)
            body = {"model": self.model, "messages": [{"role": "user", "content": text}], "temperature": temperature}
            body |= {"max_tokens": self.max_tokens}
            body |= {"logprobs": True, "top_logprobs": MOST_ALTERNATIVES} if self.logprobs else {}
            reply = await self.service.post(
                "/chat/completions", body | dict(self.request), lambda found: reply_of(found, logprobs=self.logprobs)
            )
            try:
                return Verdict(read(reply), ask)
            except UnreadableError as error:
                last = str(error)
        raise ReplyError(f"{self.service.url}: no verdict in {self.asks} replies, the last: {last}")


@asks_service("/models", seconds=600.0)
async def judge_pairwise(
    group: Group,
    pairs: Sequence[Pair],
    *,
    url: Url,
    model: str,
    rubric: PairRubric,
    logprobs: bool = False,
    thoughts_end: str | None = None,
    temperature: NonNegativeFloat = 0.0,
    max_tokens: PositiveInt = 1024,
    asks: PositiveInt = 3,
    request: dict[str, Any] | None = None,
    request_seconds: PositiveFloat = 120.0,
    attempts: PositiveInt = 4,
    concurrency: PositiveInt = 32,
    key_variable: KeyVariable | None = None,
) -> list[Opinion | Failure]:
    """The opinion of a judge that compares two answers, asked in both orders.

        P(a better) = (P(A | a shown first) + P(B | b shown first)) / 2

    so a verdict that flips with the order is a tie of 0.5. url: up to and with /v1. rubric: a file with {prompt}, {a}
    and {b} that asks for [[A]], [[B]] or [[C]] (a tie). logprobs: take the labels' probabilities in place of the one
    that was written. request: further fields of the request's body. asks: how often an unreadable reply is asked for,
    the first time included. Others: see llmrl.rewards.services.Service and `after_thoughts`.
    """
    service = Service(url, request_seconds, attempts, concurrency, key_variable)
    judge = Judge(service, model, logprobs, temperature, max_tokens, asks, request or {})
    shown = [_answer(one, thoughts_end) for one in group.trajectories]

    async def ask(first: int, second: int) -> Verdict:
        row = _row(group.prompt) | {"a": shown[first], "b": shown[second]}
        return await judge.verdict(rubric_of(rubric).fill(row), preference)

    async def both(pair: Pair) -> Opinion:
        found = await asyncio.gather(ask(pair.a, pair.b), ask(pair.b, pair.a), return_exceptions=True)
        for result in found:
            if isinstance(result, BaseException):
                raise result
        one, other = cast(list[Verdict], found)
        sides = [(value > 0.5) - (value < 0.5) for value in (one.value, 1 - other.value)]
        metrics = {
            "order_consistency": float(sides[0] == sides[1]),
            "parse_failures": float(one.unreadable + other.unreadable),
        }
        return Opinion((one.value + 1 - other.value) / 2, metrics)

    return await asyncio.gather(*(_or_failure(both(pair)) for pair in pairs))


@asks_service("/models", seconds=600.0)
async def judge_pointwise(
    group: Group,
    *,
    url: Url,
    model: str,
    rubric: AnswerRubric,
    low: float = 1.0,
    high: float = 10.0,
    logprobs: bool = False,
    thoughts_end: str | None = None,
    temperature: NonNegativeFloat = 0.0,
    max_tokens: PositiveInt = 1024,
    asks: PositiveInt = 3,
    request: dict[str, Any] | None = None,
    request_seconds: PositiveFloat = 120.0,
    attempts: PositiveInt = 4,
    concurrency: PositiveInt = 32,
    key_variable: KeyVariable | None = None,
) -> list[Score | Failure]:
    """The score from `low` to `high` that a judge gives an answer.

    rubric: a file with {prompt} and {completion} that asks for a score as [[7]]. logprobs: take the expectation over
    the scores that the judge's token might have been, which ties less often; for scores of one digit alone. Others: see
    judge_pairwise. Raises ValueError for an empty range, and for logprobs with a range that has scores of two digits.
    """
    if not low < high or (logprobs and not 0 <= low < high < 10):
        needed = "low < high" + (", both from 0 to 9 where logprobs is true" if logprobs else "")
        raise ValueError(f"low {low:g}, high {high:g}: expected {needed}")
    service = Service(url, request_seconds, attempts, concurrency, key_variable)
    judge = Judge(service, model, logprobs, temperature, max_tokens, asks, request or {})

    async def ask(trajectory: Trajectory) -> Score:
        row = _row(group.prompt) | {"completion": _answer(trajectory, thoughts_end)}
        found = await judge.verdict(rubric_of(rubric).fill(row), lambda reply: score(reply, low, high))
        return Score(found.value, metrics={"parse_failures": float(found.unreadable)})

    return await asyncio.gather(*(_or_failure(ask(one)) for one in group.trajectories))


async def _or_failure(work: Any) -> Any:
    """The result, or the failure of a service that was asked."""
    try:
        return await work
    except TimeoutError as error:
        return Failure("", "timeout", str(error))
    except ReplyError as error:
        return Failure("", "invalid", str(error))
    except ServiceError as error:
        return Failure("", "crash", str(error))


def _row(prompt: Prompt) -> dict[str, Any]:
    """The columns of the row, and the question as a judge reads it."""
    messages = prompt.messages
    return {**prompt.row, "prompt": prompt.text if messages is None else transcript([dict(one) for one in messages])}


def _answer(trajectory: Trajectory, thoughts_end: str | None) -> str:
    """The answer without its thoughts; empty where the thoughts never ended."""
    return (after_thoughts(trajectory.text, trajectory.prompt.text, thoughts_end=thoughts_end) or "").strip()

"""Respondents: language models that reply to a judge's questions, behind an endpoint or as a role of the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmrl.pieces import Piece
from llmrl.rewards.services import Service
from llmrl.rewards.verdicts import Reply, reply_of

MOST_ALTERNATIVES = 20


@dataclass(frozen=True)
class Question:
    """A text to reply to.

    chat: whether the text is a user's message, which a role reads through its chat template. logprobs: whether the
    likeliest tokens are wanted too. seed: decides what a role samples.
    """

    text: str
    chat: bool = True
    temperature: float = 0.0
    max_tokens: int = 1024
    logprobs: bool = False
    seed: int = 0


class Respondent(Protocol):
    """A language model that replies; `name` stands in faults."""

    @property
    def name(self) -> str: ...

    async def reply(self, question: Question) -> Reply:
        """The reply to a question; raises TimeoutError, ServiceError or ReplyError if there is none."""
        ...


def roles_asked_by(piece: Piece) -> set[str]:
    """The roles of the recipe that a function asks by its settings, or by those of a piece among them."""
    found: set[str] = set()
    for value in piece.settings.values():
        if isinstance(value, Piece):
            found |= roles_asked_by(value)
    if piece.mark("service"):
        notes = piece.settings.get("notes") or {}
        found |= {one for one in (piece.settings.get("role"), *(note.role for note in notes.values())) if one}
    return found


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible endpoint; request: further fields of the request's body."""

    service: Service
    model: str
    request: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.service.url

    async def reply(self, question: Question) -> Reply:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": question.text}],
            "temperature": question.temperature,
            "max_tokens": question.max_tokens,
        }
        body |= {"logprobs": True, "top_logprobs": MOST_ALTERNATIVES} if question.logprobs else {}
        return await self.service.post(
            "/chat/completions", body | dict(self.request), lambda found: reply_of(found, logprobs=question.logprobs)
        )

"""Rewards that a server gives: the scores of a reward model that runs elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from llmrl.errors import short
from llmrl.marks import asks_service
from llmrl.rewards.conventions import TRL
from llmrl.rewards.services import KeyVariable, ReplyError, Service, Url
from llmrl.types import Group


@asks_service("/health", seconds=300.0)
async def remote_score(
    group: Group,
    *,
    url: Url,
    output: NonNegativeInt = 0,
    request_seconds: PositiveFloat = 30.0,
    attempts: PositiveInt = 4,
    concurrency: PositiveInt = 32,
    key_variable: KeyVariable | None = None,
) -> list[float]:
    """The scores of a reward model behind `llmrl serve`, asked once for a whole group.

    url: the server's. Chat data are sent as messages, other data as prompt and completion. output: of a model with
    several outputs, the one that is the reward. request_seconds, attempts, concurrency, key_variable: see
    llmrl.rewards.services.Service. Raises TimeoutError, ServiceError or ReplyError when the last attempt has failed.
    """
    service = Service(url, request_seconds, attempts, concurrency, key_variable)
    count = len(group.trajectories)
    return await service.post("/score", _texts(group), _numbers(lambda reply: reply["scores"], count, output))


@asks_service("/health", seconds=300.0)
async def vllm_score(
    group: Group,
    *,
    url: Url,
    model: str,
    end: str = "",
    add_special_tokens: bool = True,
    output: NonNegativeInt = 0,
    request_seconds: PositiveFloat = 30.0,
    attempts: PositiveInt = 4,
    concurrency: PositiveInt = 32,
    key_variable: KeyVariable | None = None,
) -> list[float]:
    """The scores of a reward model behind vLLM's server (`vllm serve FOLDER --runner pooling`), before any activation.

    model: the name that the server gives the model. Prompt and completion are sent as one text; end: what closes it,
    such as the end-of-sequence token that the reward model was trained with. add_special_tokens: whether the server
    adds the tokenizer's own; false for prompts that a chat template has begun with them. Others: see remote_score.
    """
    service = Service(url, request_seconds, attempts, concurrency, key_variable)
    texts = [f"{one.prompt.text}{one.text}{end}" for one in group.trajectories]
    body = {"model": model, "input": texts, "task": "classify", "use_activation": False}
    body["add_special_tokens"] = add_special_tokens
    return await service.post("/pooling", body, _numbers(_pooled, len(texts), output))


def _texts(group: Group) -> dict[str, Any]:
    """The body of a request to /score: conversations, or prompts with completions."""
    prompts, completions = ([TRL.data[name](one) for one in group.trajectories] for name in ("prompts", "completions"))
    if group.prompt.messages is None:
        return {"prompt": prompts, "completion": completions}
    return {"messages": [[*asked, *said] for asked, said in zip(prompts, completions, strict=True)]}


def _pooled(reply: Any) -> list[Any]:
    """The outputs of each text, in order."""
    return [one["data"] for one in sorted(reply["data"], key=lambda one: one["index"])]


def _numbers(of: Callable[[Any], Any], count: int, output: int) -> Callable[[Any], list[float]]:
    """A reader of replies: `count` finite numbers, each one itself or the output of this place in a list."""

    def read(reply: Any) -> list[float]:
        try:
            found = [one[output] if isinstance(one, list) else one for one in of(reply)]
            numbers = [float(one) for one in found if isinstance(one, int | float) and math.isfinite(one)]
        except (TypeError, KeyError, IndexError, AttributeError, OverflowError):
            found, numbers = [], []
        if len(numbers) != count or len(found) != count:
            raise ReplyError(f"the reply is {short(reply)}, expected {count} scores, each a finite number")
        return numbers

    return read

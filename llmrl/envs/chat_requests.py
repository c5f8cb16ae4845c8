"""The OpenAI API as agents speak it: bodies of requests and of answers, and of faults.

request   {"model": "policy", "messages": [...], "tools": [...], "stop": ["\n"], "max_tokens": 20}
answer    {"choices": [{"message": {"role": "assistant", "content": "...", "tool_calls": [...]}, ...}], ...}
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmrl.data.messages import Message, Messages, are_messages, messages_of
from llmrl.request_fields import RequestError, known_fields, refuse_other_choices

WITHOUT_EFFECT = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "seed", "parallel_tool_calls",
)  # fmt: skip
"""Fields that are accepted and change nothing: the run has a seed of its own, and the policy writes what it writes."""
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
}
"""The values of fields that ask for what the policy's sampler does not do."""
SAMPLING = ("model", "stop", "max_tokens", "temperature", "top_p", "stream", "stream_options")
CHAT_FIELDS = ("messages", "tools", "tool_choice", "max_completion_tokens", *SAMPLING, *CHOICES, *WITHOUT_EFFECT)
TEXT_CHOICES = {name: CHOICES[name] for name in ("n", "frequency_penalty", "presence_penalty", "logit_bias")}
TEXT_FIELDS = ("prompt", *SAMPLING, *TEXT_CHOICES, "user", "seed")
MOST_STOPS = 16

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True)
class AgentRequest:
    """An agent's request for one answer.

    messages: of a chat; None for a plain `prompt`. tools: the schemas of functions that the policy may call.
    tool_choice: auto, none, required, or the name of a function. usage: whether a stream ends with the number of
    tokens. max_tokens, temperature, top_p: None where the agent leaves them to the recipe.
    """

    model: str
    messages: Messages | None = None
    prompt: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str = "auto"
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool = False
    usage: bool = False


@dataclass(frozen=True)
class Answer:
    """The policy's answer as the agent is told. calls: tool calls in the form of the API."""

    text: str
    finish: Finish
    calls: tuple[Mapping[str, Any], ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def message(self) -> Message:
        """The answer as a message of the conversation."""
        calls = {"tool_calls": [dict(call) for call in self.calls]} if self.calls else {}
        return {"role": "assistant", "content": self.text or (None if self.calls else ""), **calls}

    @property
    def usage(self) -> dict[str, int]:
        """The numbers of tokens."""
        total = self.prompt_tokens + self.completion_tokens
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens, "total_tokens": total}


def chat_request(body: Any) -> AgentRequest:
    """The request of a body to /v1/chat/completions; raises RequestError."""
    fields = _given(body, CHAT_FIELDS, "messages", CHOICES)
    messages: Any = fields.get("messages")
    if not are_messages(messages):
        raise RequestError("messages", messages, "a list of messages, at least one")
    try:
        found = messages_of(messages)
    except ValueError as error:
        raise RequestError("messages", messages, f"messages of text: {error}") from None
    limits = [fields[name] for name in ("max_completion_tokens", "max_tokens") if name in fields]
    tools = _tools(fields.get("tools", []))
    choice = _tool_choice(fields.get("tool_choice", "auto"), tools)
    return AgentRequest(messages=found, tools=tools, tool_choice=choice, **_sampling(fields, limits))


def text_request(body: Any) -> AgentRequest:
    """The request of a body to /v1/completions; raises RequestError."""
    fields = _given(body, TEXT_FIELDS, "prompt", TEXT_CHOICES)
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise RequestError("prompt", prompt, "one text")
    return AgentRequest(prompt=prompt, **_sampling(fields, [fields["max_tokens"]] if "max_tokens" in fields else []))


def _given(body: Any, known: Sequence[str], holds: str, choices: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The fields that have a value, null being none."""
    fields = {name: value for name, value in known_fields(body, known, holds=holds).items() if value is not None}
    refuse_other_choices(fields, choices)
    return fields


def _sampling(fields: Mapping[str, Any], limits: Sequence[Any]) -> dict[str, Any]:
    for limit in limits:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise RequestError("max_tokens", limit, "a number of tokens, at least 1")
    options = fields.get("stream_options", {})
    return {
        "model": str(fields.get("model", "")),
        "max_tokens": min(limits, default=None),
        "temperature": _number(fields, "temperature", 0.0, 2.0),
        "top_p": _number(fields, "top_p", 0.0, 1.0),
        "stop": _stops(fields.get("stop", [])),
        "stream": bool(fields.get("stream", False)),
        "usage": isinstance(options, Mapping) and bool(options.get("include_usage")),
    }


def _number(fields: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        raise RequestError(name, value, f"a number from {low:g} to {high:g}")
    return float(value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise RequestError("stop", value, f"a text, or a list of at most {MOST_STOPS} texts, none of them empty")
    return tuple(stops)


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    listed: list[Any] = value if isinstance(value, list) else [None]
    for place, tool in enumerate(listed):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            shown = tool if isinstance(value, list) else value
            raise RequestError(f"tools[{place}]", shown, "a tool of type function, with a name and parameters")
    return tuple(listed)


def _tool_choice(value: Any, tools: Sequence[Mapping[str, Any]]) -> str:
    names = [str(tool["function"]["name"]) for tool in tools]
    if isinstance(value, dict) and isinstance(value.get("function"), dict) and value["function"].get("name") in names:
        return str(value["function"]["name"])
    if value not in ("auto", "none", "required") or (value == "required" and not tools):
        raise RequestError("tool_choice", value, "auto, none, required, or one of the tools' functions")
    return str(value)


def chat_body(answer: Answer, model: str, number: str, seconds: int) -> dict[str, Any]:
    """The body of a chat's answer; number: of the answer; seconds: since 1970."""
    choice = {"index": 0, "message": answer.message, "finish_reason": answer.finish, "logprobs": None}
    return _body("chat.completion", model, number, seconds) | {"choices": [choice], "usage": answer.usage}


def text_body(answer: Answer, model: str, number: str, seconds: int) -> dict[str, Any]:
    """The body of the answer to a plain prompt."""
    choice = {"index": 0, "text": answer.text, "finish_reason": answer.finish, "logprobs": None}
    return _body("text_completion", model, number, seconds) | {"choices": [choice], "usage": answer.usage}


def _body(kind: str, model: str, number: str, seconds: int) -> dict[str, Any]:
    return {"id": number, "object": kind, "created": seconds, "model": model}


def chat_chunks(answer: Answer, model: str, number: str, seconds: int, *, usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks of a chat's answer that is streamed: all of its text is in one of them."""
    head = _body("chat.completion.chunk", model, number, seconds)
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": answer.text}] if answer.text else []
    deltas += [{"tool_calls": [{"index": place, **call}]} for place, call in enumerate(answer.calls)]
    for delta in deltas:
        yield head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield head | {"choices": [{"index": 0, "delta": {}, "finish_reason": answer.finish}]}
    if usage:
        yield head | {"choices": [], "usage": answer.usage}


def text_chunks(answer: Answer, model: str, number: str, seconds: int, *, usage: bool) -> Iterator[dict[str, Any]]:
    """The same of the answer to a plain prompt."""
    head = _body("text_completion", model, number, seconds)
    yield head | {"choices": [{"index": 0, "text": answer.text, "finish_reason": answer.finish, "logprobs": None}]}
    if usage:
        yield head | {"choices": [], "usage": answer.usage}


def fault_body(message: str, *, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None):
    """The body of a fault."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def call_of(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call in the form of the API, whose arguments are JSON text."""
    text = json.dumps(arguments, ensure_ascii=False)
    return {"id": secrets.token_hex(5)[:9], "type": "function", "function": {"name": name, "arguments": text}}

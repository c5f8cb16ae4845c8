"""The bodies of requests: JSON to the tokens of each text, or a fault that names field, value and expectation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from llmrl.data.messages import are_messages, messages_of
from llmrl.request_fields import RequestError, known_fields, refuse_other_choices
from llmrl.serve.model import ServedModel

Rows = list[list[int]]
MOST_TEXTS = 4096
EXPECTED = "texts; or messages; or prompt and completion"
SCORE_FIELDS = ("texts", "messages", "prompt", "completion", "model")
CHOICES: Mapping[str, tuple[Any, ...]] = {
    "task": (None, "classify"),
    "use_activation": (None, True, False),
    "encoding_format": ("float",),
    "add_special_tokens": (True, False),
}
"""The values of the fields of vLLM's requests that are not free."""
POOLING_FIELDS = ("input", "model", "user", *CHOICES)
_MISSING = object()


def score_rows(body: Any, model: ServedModel) -> Rows:
    """The rows of a request to /score; raises RequestError."""
    fields = known_fields(body, SCORE_FIELDS, holds=EXPECTED)
    given = [name for name in SCORE_FIELDS[:-1] if name in fields]
    if given == ["texts"]:
        texts = _strings(fields, "texts")
        return [_row(f"texts[{place}]", text, model, model.text_ids) for place, text in texts]
    if given == ["messages"]:
        conversations = _list(fields, "messages", "a list of conversations, each a list of messages")
        return [_conversation(f"messages[{place}]", one, model) for place, one in conversations]
    if given == ["prompt", "completion"]:
        pairs = _pairs(fields)
        return [
            _row(f"completion[{place}]", completion, model, lambda one, p=prompt: model.answer_ids(p, one))
            for place, (prompt, completion) in enumerate(pairs)
        ]
    raise RequestError("body", " and ".join(given) or "none of them", EXPECTED)


def pooling_rows(body: Any, model: ServedModel) -> Rows:
    """The rows of a request to vLLM's /pooling or /classify; raises RequestError."""
    fields = dict(known_fields(body, POOLING_FIELDS, holds="input"))
    if isinstance(fields.get("input"), str):
        fields["input"] = [fields["input"]]
    refuse_other_choices(fields, CHOICES)
    encode = partial(model.text_ids, bare=fields.get("add_special_tokens") is False)
    return [_row(f"input[{place}]", text, model, encode) for place, text in _strings(fields, "input")]


def _list(fields: Mapping[str, Any], name: str, expected: str) -> list[tuple[int, Any]]:
    value = fields.get(name, _MISSING)
    if value is _MISSING:
        raise RequestError(name, "no such field", expected)
    if not isinstance(value, list) or not value:
        raise RequestError(name, value, expected)
    if len(value) > MOST_TEXTS:
        raise RequestError(name, f"{len(value)} entries", f"at most {MOST_TEXTS} in one request", status=413)
    return list(enumerate(value))


def _strings(fields: Mapping[str, Any], name: str) -> list[tuple[int, str]]:
    found = _list(fields, name, "a list of texts, at least one")
    for place, one in found:
        if not isinstance(one, str):
            raise RequestError(f"{name}[{place}]", one, "a text")
    return found


def _pairs(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Prompts with their completions; one prompt may stand for all completions, and one text for a list of one."""
    completions = fields["completion"]
    completions = [completions] if isinstance(completions, str) else completions
    prompts = fields["prompt"]
    if isinstance(prompts, str):
        prompts = [prompts] * (len(completions) if isinstance(completions, list) else 1)
    listed = {"prompt": prompts, "completion": completions}
    checked = {name: [text for _, text in _strings(listed, name)] for name in listed}
    if len(checked["prompt"]) != len(checked["completion"]):
        count = len(checked["completion"])
        raise RequestError("prompt", f"{len(prompts)} texts", f"one text, or {count}, one for each completion")
    return list(zip(checked["prompt"], checked["completion"], strict=True))


def _conversation(field: str, value: Any, model: ServedModel) -> list[int]:
    if not are_messages(value) or len(value) < 2:
        raise RequestError(field, value, "a list of messages: what is asked, then the answer")
    try:
        messages = messages_of(value)
    except ValueError as error:
        raise RequestError(field, value, f"messages with role and content: {error}") from None
    if messages[-1]["role"] != "assistant":
        role = messages[-1]["role"]
        raise RequestError(f"{field}[{len(value) - 1}].role", role, "assistant: the answer that is scored")
    return _row(field, messages, model, model.message_ids)


def _row(field: str, value: Any, model: ServedModel, encode: Callable[[Any], list[int]]) -> list[int]:
    try:
        token_ids = encode(value)
    except ValueError as error:
        raise RequestError(field, value, f"messages for the model's chat template: {error}") from None
    if not token_ids:
        raise RequestError(field, value, "a text of at least one token")
    if len(token_ids) > model.max_tokens:
        raise RequestError(field, f"{len(token_ids)} tokens", f"at most {model.max_tokens}; nothing is ever cut")
    return token_ids

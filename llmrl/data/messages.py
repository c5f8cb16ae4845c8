"""Messages of a conversation, as public data write them, in the one form that chat templates read.

{"role": "user", "content": "1+1"}                    as it is; a content in parts of text becomes one text
{"from": "human", "value": "1+1"}                     {"role": "user", "content": "1+1"}
tool_calls whose arguments are JSON text              Arguments, which templates may walk or print
keys whose value is null                              left out, as Arrow fills them in where another row has the key
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmrl.columns import as_json
from llmrl.errors import short
from llmrl.rewards.thoughts import after_thoughts

Message = dict[str, Any]
Messages = list[Message]

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
"""Names that from/value conversations have for the roles of role/content messages."""
CALL = "function_call"
SYSTEM = ("system", "developer")
SPOKEN = ("content", "reasoning_content", "reasoning", "thinking", "tool_calls")
"""The keys of which an assistant's message has at least one."""


class Arguments(dict[str, Any]):
    """The arguments of a tool call: a mapping to templates that walk it, JSON text to those that print it."""

    def __init__(self, given: Mapping[str, Any], text: str | None = None):
        super().__init__(given)
        self.text = json.dumps(given, ensure_ascii=False) if text is None else text

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: str) -> str:
        return self.text + other

    def __radd__(self, other: str) -> str:
        return other + self.text


def are_messages(value: Any) -> bool:
    """Whether the value is a list of messages, and no text or other list."""
    listed = isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0
    return listed and all(isinstance(one, Mapping) and ("role" in one or "from" in one) for one in value)


def messages_of(value: Sequence[Mapping[str, Any]]) -> Messages:
    """Return messages in the form of the module's page; raises ValueError naming the message that has none."""
    found = []
    for number, one in enumerate(value):
        try:
            found.append(_message({key: held for key, held in one.items() if held is not None}))
        except ValueError as error:
            raise ValueError(f"message {number}: {error}") from None
    return found


def transcript(messages: Messages) -> str:
    """Return what is asked as text: a single question alone, else every message with its role.

    System messages and the thoughts of earlier answers are left out, since templates may leave them out.
    """
    asked = [message for message in messages if message["role"] not in SYSTEM]
    if [message["role"] for message in asked] == ["user"]:
        return asked[0]["content"]
    said = (after_thoughts(one["content"]) or one["content"] for one in asked)
    return "\n".join(f"{one['role']}: {text}{_calls_as_text(one)}" for one, text in zip(asked, said, strict=True))


def calls_of(message: Message) -> list[dict[str, Any]]:
    """The functions that a message calls, each with its name and arguments."""
    return [call.get("function", call) for call in message.get("tool_calls", ())]


def _calls_as_text(message: Message) -> str:
    return "".join(f" {call.get('name')}({call.get('arguments')})" for call in calls_of(message))


def _message(given: Message) -> Message:
    if "role" not in given:
        speaker, said = given.get("from"), given.get("value", "")
        if speaker == CALL:
            calls = as_json(said)
            given = {"role": "assistant", "tool_calls": calls if isinstance(calls, list) else [calls]}
        else:
            given = {"role": ROLES.get(str(speaker), speaker), "content": said}
    if not isinstance(given.get("role"), str):
        raise ValueError(f"expected role and content, or from and value, got {short(given)}")
    calls = given.get("tool_calls")
    if calls and not isinstance(calls, Sequence):
        raise ValueError(f"expected a list of tool_calls, got {short(calls)}")
    if calls:
        given = given | {"tool_calls": [_call(call) for call in calls]}
    elif calls is not None:
        given = {key: held for key, held in given.items() if key != "tool_calls"}
    if not any(given.get(key) for key in SPOKEN) and "content" not in given:
        raise ValueError(f"the {given['role']}'s message has no content")
    return given | {"content": _content(given.get("content", ""))}


def _content(content: Any) -> str:
    if isinstance(content, str | int | float):
        return str(content)
    if isinstance(content, Sequence):
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
        other = next(part for part, text in zip(content, texts, strict=True) if not isinstance(text, str))
        raise ValueError(f"its content has a part that is no text: {short(other)}")
    raise ValueError(f"expected text as its content, got {short(content)}")


def _call(call: Any) -> dict[str, Any]:
    held = as_json(call)
    if not isinstance(held, Mapping):
        raise ValueError(f"expected a tool call with name and arguments, got {short(call)}")
    held = {key: value for key, value in held.items() if value is not None}
    function = held.get("function", held)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError(f"expected a tool call with name and arguments, got {short(call)}")
    given = function.get("arguments", {})
    loaded = as_json(given)
    arguments = Arguments(loaded, given if isinstance(given, str) else None) if isinstance(loaded, Mapping) else given
    whole = {"type": "function", **(held if "function" in held else {})}
    return whole | {"function": {**function, "arguments": arguments}}

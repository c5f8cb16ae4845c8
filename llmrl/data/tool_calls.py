"""Tool calls in what a model wrote, read as its chat template writes them.

A tokenizer that says how its responses are parsed (`response_template`) is asked. The others are told by their chat
template:

    Hermes, Qwen       <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>
    Qwen coder         <tool_call><function=add><parameter=a>1</parameter></function></tool_call>
    Mistral            [TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]       or  [TOOL_CALLS]add[ARGS]{"a": 1}
    DeepSeek           <｜tool▁call▁begin｜>add<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜>
    Llama              {"name": "add", "parameters": {"a": 1}}                    and nothing else
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmrl.data.messages import Message, calls_of, messages_of
from llmrl.errors import first_line, short

Parse = Callable[[str, Sequence[Mapping[str, Any]]], Mapping[str, Any]]


class UnreadableCallError(ValueError):
    """A text that begins a call which cannot be read; the message says to the model what is wrong."""


@dataclass(frozen=True)
class CallForm:
    """One way to write calls.

    pattern: a call, with the group `call`, which is JSON with name and arguments, or a list of these; or with the
    groups `name` and `arguments`, which is JSON, or `parameters`, which is tags. attempt: what begins a call. mark: a
    text in the chat templates of models that write so.
    """

    pattern: re.Pattern[str]
    attempt: re.Pattern[str]
    mark: str = ""

    @classmethod
    def of(cls, pattern: str) -> CallForm:
        """The form of a pattern alone, whose fixed beginning begins a call.

        A pattern without named groups has its first group as `call`. Raises ValueError for a pattern without groups.
        """
        try:
            compiled = re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if not compiled.groups:
            raise ValueError("expected a regular expression with a group that holds the call")
        if compiled.groupindex and not compiled.groupindex.keys() & {"call", "name"}:
            raise ValueError(f"expected a group named call or name, got {', '.join(compiled.groupindex)}")
        fixed = re.match(r"(?:\\[^\w\s]|[^\\.^$*+?{}\[\]|()])*(?![*?{])", pattern)
        begins = fixed[0] if fixed else ""
        return cls(compiled, re.compile(begins) if begins else compiled)


def _form(pattern: str, attempt: str, mark: str) -> CallForm:
    return CallForm(re.compile(pattern, re.DOTALL), re.compile(attempt), mark)


FORMS: dict[str, CallForm] = {
    "qwen_coder": _form(
        r"(?:<tool_call>\s*)?<function=(?P<name>[^>\n]+)>(?P<parameters>.*?)</function>(?:\s*</tool_call>)?",
        r"<tool_call>(?:\s*<function=)?|<function=",
        "<function=",
    ),
    "hermes": _form(r"<tool_call>\s*(?P<call>.*?)\s*(?:</tool_call>|\Z)", r"<tool_call>", "<tool_call>"),
    "mistral": _form(
        r"\[TOOL_CALLS\]\s*(?:(?P<name>[\w.-]+)(?:\[CALL_ID\]\w+)?\[ARGS\]\s*(?P<arguments>.*?)|(?P<call>[\[{].*?))\s*"
        r"(?=\[TOOL_CALLS\]|\Z)",
        r"\[TOOL_CALLS\]",
        "[TOOL_CALLS]",
    ),
    "deepseek": _form(
        r"(?:<\uff5ctool▁calls▁begin\uff5c>)?\s*<\uff5ctool▁call▁begin\uff5c>(?:function<\uff5ctool▁sep\uff5c>)?(?P<name>[\w.-]+)\s*"
        r"(?:<\uff5ctool▁sep\uff5c>|```json)\s*(?P<arguments>.*?)\s*(?:```)?\s*<\uff5ctool▁call▁end\uff5c>(?:<\uff5ctool▁calls▁end\uff5c>)?",
        r"<\uff5ctool▁call▁begin\uff5c>",
        "<\uff5ctool▁call▁begin\uff5c>",
    ),
    "llama": _form(
        r"\A\s*(?:<\|python_tag\|>)?\s*(?P<call>\{.*\})\s*\Z",
        r"\A\s*(?:<\|python_tag\|>|\{\s*\"name\")",
        '"parameters": ',
    ),
}
"""Ways to write calls, in the order in which a chat template is compared with their marks."""


class CallReader:
    """Reads a turn of the assistant's as a message with its tool calls."""

    def __init__(self, form: CallForm, parse: Parse | None = None):
        self._form, self._parse = form, parse

    @classmethod
    def of(cls, tokenizer: Any) -> CallReader:
        """The reader of what a tokenizer's models write."""
        template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
        form = next((form for form in FORMS.values() if form.mark in template), FORMS["hermes"])
        return cls(form, _parser(tokenizer) if getattr(tokenizer, "response_template", None) else None)

    def message(self, text: str, tools: Sequence[Mapping[str, Any]] = ()) -> Message:
        """The message that a turn's text is, in which `tool_calls` stand if the text has some.

        tools: the schemas of the functions. Raises UnreadableCallError for a call that cannot be read.
        """
        if self._parse is not None:
            try:
                said = dict(self._parse(text, tools))
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UnreadableCallError(f"the call cannot be read: {first_line(error)}") from None
        else:
            found = list(self._form.pattern.finditer(text))
            calls = [call for match in found for call in _calls(match, tools)]
            if len(self._form.attempt.findall(text)) > len(found):
                raise UnreadableCallError("a call is begun and not ended as calls are")
            outside = self._form.pattern.sub("", text).strip() if found else text
            said = {"content": outside} | ({"tool_calls": calls} if calls else {})
        try:
            [message] = messages_of([{"role": "assistant", **said}])
        except ValueError as error:
            raise UnreadableCallError(str(error)) from None
        for call in calls_of(message):
            if not isinstance(call.get("arguments", {}), Mapping):
                raise UnreadableCallError(f"the arguments are {short(call['arguments'])}, expected a JSON object")
        return message


def _parser(tokenizer: Any) -> Parse:
    """The tokenizer's own parser, which is told how a prompt ends."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "q"}], tokenize=False, add_generation_prompt=True
    )

    def parse(text: str, tools: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return tokenizer.parse_response(text, prefix=asked, tools=list(tools) or None)

    return parse


def _calls(match: re.Match[str], tools: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The calls of one match of a form's pattern."""
    groups = match.groupdict() or {"call": match[1]}
    if groups.get("name") is not None:
        name = groups["name"].strip()
        if (tags := groups.get("parameters")) is not None:
            yield _call(name, _of_tags(tags, _properties(name, tools)))
        else:
            yield _call(name, _json(groups.get("arguments") or "{}"))
        return
    held = _json(groups.get("call") or "")
    for one in held if isinstance(held, list) else [held]:
        if not isinstance(one, Mapping) or not isinstance(one.get("name"), str):
            raise UnreadableCallError(f"expected a JSON object with name and arguments, got {short(one)}")
        yield _call(one["name"], one.get("arguments", one.get("parameters", {})))


def _call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableCallError(f"the call is no JSON: {first_line(error)}") from None


def _properties(name: str, tools: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The schemas of a tool's parameters, by name."""
    functions = (tool.get("function", tool) for tool in tools)
    own = next((one for one in functions if one.get("name") == name), {})
    return own.get("parameters", {}).get("properties", {})


def _of_tags(text: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments in tags: texts where the schema has a string, else the JSON that they hold."""
    found: dict[str, Any] = {}
    for name, value in re.findall(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", text, re.DOTALL):
        found[name] = value
        if properties.get(name, {}).get("type") != "string":
            try:
                found[name] = json.loads(value)
            except (ValueError, RecursionError):
                continue
    return found

"""Tool calls in the forms of public models, and what begins a call and is none."""

from __future__ import annotations

import pytest
from chat_templates import tokenizer

from llmrl.data.messages import calls_of
from llmrl.data.tool_calls import FORMS, CallForm, CallReader, UnreadableCallError

ADD = [{"name": "add", "arguments": {"a": 1}}]
BOTH = [*ADD, {"name": "say", "arguments": {"text": "1"}}]
TOOLS = [
    {"function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}},
    {"function": {"name": "say", "parameters": {"properties": {"text": {"type": "string"}}}}},
]
HERMES = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
CODER = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
SAY = "<function=say>\n<parameter=text>\n1\n</parameter>\n</function>"
BEGIN, SEP, END = (f"<\uff5ctool▁{name}\uff5c>" for name in ("call▁begin", "sep", "call▁end"))


def called(form: str, text: str) -> list[dict]:
    calls = calls_of(CallReader(FORMS[form]).message(text, TOOLS))
    return [{"name": one["name"], "arguments": dict(one["arguments"])} for one in calls]


@pytest.mark.parametrize(
    ("form", "text", "calls"),
    [
        ("hermes", f"Let me see. {HERMES}", ADD),
        ("hermes", f'{HERMES}<tool_call>{{"name": "say", "arguments": {{"text": "1"}}}}</tool_call>', BOTH),
        ("hermes", HERMES.removesuffix("\n</tool_call>"), ADD),
        ("hermes", "no <call>", []),
        ("qwen_coder", CODER, ADD),
        ("qwen_coder", f"{CODER}\n{SAY}", BOTH),  # a string stays one, whatever it looks like
        ("mistral", '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]', ADD),
        ("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]say[CALL_ID]x1[ARGS]{"text": "1"}', BOTH),
        ("deepseek", f'{BEGIN}add{SEP}{{"a": 1}}{END}', ADD),
        ("deepseek", f'{BEGIN}function{SEP}add\n```json\n{{"a": 1}}\n```{END}', ADD),
        ("llama", ' {"name": "add", "parameters": {"a": 1}}', ADD),
        ("llama", 'It is {"a": 1}.', []),
    ],
)
def test_calls_are_read(form, text, calls):
    assert called(form, text) == calls


def test_words_beside_a_call_are_its_message():
    message = CallReader(FORMS["hermes"]).message(f"Let me see.\n{HERMES}")
    assert message["content"] == "Let me see."
    assert CallReader(FORMS["hermes"]).message(" 7 ") == {"role": "assistant", "content": " 7 "}


@pytest.mark.parametrize(
    ("form", "text", "fault"),
    [
        ("hermes", "<tool_call>{'name': 'add'}</tool_call>", "the call is no JSON: Expecting property name"),
        ("hermes", "<tool_call>", "the call is no JSON"),
        ("hermes", "<tool_call>7</tool_call>", "expected a JSON object with name and arguments, got 7"),
        ("hermes", HERMES.replace('{"a": 1}', '"a"'), "the arguments are 'a', expected a JSON object"),
        ("qwen_coder", "<tool_call>\n<function=add>\n<parameter=a>", "a call is begun and not ended"),
        ("deepseek", f"{BEGIN}add{END}", "a call is begun and not ended"),
        ("llama", '{"name": "add", "par', "a call is begun and not ended"),
    ],
)
def test_what_begins_a_call_and_is_none(form, text, fault):
    with pytest.raises(UnreadableCallError) as caught:
        called(form, text)
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "text", "begun"),
    [
        (r"<call>(.*?)</call>", '<call>{"name": "add", "arguments": {"a": 1}}</call>', "<call>"),
        (r"CALL (?P<name>\w+) (?P<arguments>\{.*?\})", 'CALL add {"a": 1}', "CALL x"),
    ],
)
def test_a_pattern_of_ones_own(pattern, text, begun):
    reader = CallReader(CallForm.of(pattern))
    assert [one["name"] for one in calls_of(reader.message(text))] == ["add"]
    with pytest.raises(UnreadableCallError):
        reader.message(begun)


@pytest.mark.parametrize(
    ("pattern", "fault"), [("(", "not a regular"), ("CALL", "with a group"), ("(?P<x>.)", "named call or name, got x")]
)
def test_patterns_that_find_no_calls(pattern, fault):
    with pytest.raises(ValueError, match=fault):
        CallForm.of(pattern)


def test_a_tokenizer_says_how_its_responses_are_read():
    made = tokenizer("chatml")
    assert calls_of(CallReader.of(made).message(HERMES))[0]["name"] == "add"  # told by the chat template
    made.response_template = {
        "start_anchor": "<|im_start|>assistant\n",
        "defaults": {"role": "assistant"},
        "fields": {
            "content": {},
            "tool_calls": {
                "open_pattern": r"do (?P<name>\w+) ",
                "close": ";",
                "content": "json",
                "repeats": True,
                "transform": {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}},
            },
        },
    }
    reader = CallReader.of(made)
    message = reader.message('Well, do add {"a": 1};do say {"text": "1"};', TOOLS)
    assert [{"name": one["name"], "arguments": dict(one["arguments"])} for one in calls_of(message)] == BOTH
    assert message["content"] == "Well,"
    with pytest.raises(UnreadableCallError, match="could not parse"):
        reader.message("do add {a;", TOOLS)
    assert reader.message(HERMES) == {"role": "assistant", "content": HERMES}

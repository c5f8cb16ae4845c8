from __future__ import annotations

import json

import pytest

from llmrl.data.messages import Arguments, are_messages, messages_of, transcript

ASKED = {"role": "user", "content": "1+1"}


def test_lists_of_messages_are_told_from_other_values():
    assert are_messages([ASKED]) and are_messages(({"from": "human", "value": "1"},))
    assert not any(map(are_messages, ("text", [], ["text"], [{"question": "1+1"}], {"role": "user"}, None)))


def test_from_and_value_become_role_and_content():
    call = json.dumps({"name": "add", "arguments": {"x": 1}})
    said = [
        ("system", "Be brief."),
        ("human", "1+1"),
        ("gpt", "I add."),
        ("function_call", call),
        ("observation", "2"),
        ("gpt", "2"),
    ]
    assert messages_of([{"from": speaker, "value": text} for speaker, text in said]) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": "I add."},
        {
            "role": "assistant",
            "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}],
            "content": "",
        },
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "2"},
    ]


def test_nulls_are_left_out_and_parts_of_text_joined():
    given = {"role": "user", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "+1"}], "name": None}
    assert messages_of([given, ASKED | {"tool_calls": None}]) == [ASKED, ASKED]
    assert messages_of([{"role": "assistant", "content": None, "tool_calls": [], "reasoning_content": "hm"}]) == [
        {"role": "assistant", "content": "", "reasoning_content": "hm"}
    ]


@pytest.mark.parametrize("given", ['{"x":1, "city": "é"}', {"x": 1, "city": "é"}])
def test_arguments_are_a_mapping_and_text(given):
    [message] = messages_of([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": given}}]}])
    arguments = message["tool_calls"][0]["function"]["arguments"]
    text = given if isinstance(given, str) else '{"x": 1, "city": "é"}'
    assert isinstance(arguments, Arguments) and arguments == {"x": 1, "city": "é"}
    assert (str(arguments), "a " + arguments + " b") == (text, f"a {text} b")
    assert json.loads(json.dumps(arguments)) == {"x": 1, "city": "é"}


def test_arguments_that_are_no_json_stay_text():
    [message] = messages_of([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{x: 1"}]}])
    assert message["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": "{x: 1"}}]


def test_the_transcript_is_the_question_alone_or_every_turn():
    system = {"role": "system", "content": "Be brief."}
    assert transcript([system, ASKED]) == "1+1"
    called = messages_of([ASKED, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"x": 1}'}]}])
    assert transcript([system, *called, {"role": "tool", "content": "2"}]) == (
        'user: 1+1\nassistant:  f({"x": 1})\ntool: 2'
    )


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        ({"role": "user"}, "message 1: the user's message has no content"),
        ({"role": "assistant", "content": None}, "message 1: the assistant's message has no content"),
        ({"role": 5, "content": "a"}, "message 1: expected role and content, or from and value, got {'role': 5, "),
        ({"role": "user", "content": {"a": 1}}, "message 1: expected text as its content, got {'a': 1}"),
        (
            {"role": "user", "content": ["1", {"type": "image", "image": "x.png"}]},
            "message 1: its content has a part that is no text: {'type': 'image', 'image': 'x.png'}",
        ),
        (
            {"role": "assistant", "tool_calls": ["add(1)"]},
            "message 1: expected a tool call with name and arguments, got 'add(1)'",
        ),
    ],
)
def test_faults_name_the_message(message, fault):
    with pytest.raises(ValueError) as caught:
        messages_of([ASKED, message])
    assert str(caught.value).startswith(fault)

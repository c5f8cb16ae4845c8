"""Prompts and completions that are lists of messages, with a template that shows every role, and tools."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from llmrl.data.prompt_builder import PromptBuilder
from llmrl.errors import RecipeError
from llmrl.models.loading import character_tokenizer
from llmrl.recipe_rows import Rows

TEMPLATE = (
    "{% for t in tools or [] %}[T]{{ t.name }}{% endfor %}"
    "{% for m in messages %}[{{ m.role[0] }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[a]{% endif %}"
)
ASKED = [{"role": "user", "content": "1+1"}]


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    made = character_tokenizer('0123456789+[]usadtTf{}": x')
    made.chat_template = TEMPLATE
    return made


def builder(tokenizer, row: dict[str, Any], **settings: Any) -> PromptBuilder:
    settings = {"path": "unread.jsonl", "prompt": "prompt", "chat": True, **settings}
    return PromptBuilder(tokenizer, Rows(**settings), [row])


def prompt(tokenizer, asked: Any, **settings: Any) -> str:
    return builder(tokenizer, {"prompt": asked}, **settings).build(1000)[0][0].text


def followed_by(tokenizer, row: dict[str, Any], **settings: Any) -> str:
    made = builder(tokenizer, row, **settings)
    return tokenizer.decode(made.demonstration(made.build(1000)[0][0]).token_ids)


def fault(tokenizer, row: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        followed_by(tokenizer, row, **settings)
    return str(caught.value)


def test_a_column_a_template_and_a_function_may_give_messages(tokenizer, tmp_path, monkeypatch):
    (tmp_path / "my_chats.py").write_text("def ask(row):\n    return [{'role': 'user', 'content': row['prompt']}]\n")
    monkeypatch.syspath_prepend(tmp_path)
    expected = "[u]1+1<eos>[a]"
    assert prompt(tokenizer, ASKED) == expected
    assert prompt(tokenizer, ASKED, prompt="{prompt}") == expected
    assert prompt(tokenizer, {"turns": ASKED}, prompt="prompt.turns") == expected
    assert prompt(tokenizer, [{"from": "human", "value": "1+1"}]) == expected
    assert prompt(tokenizer, "1+1", prompt="my_chats:ask") == expected


def test_rows_as_verl_stores_them(tokenizer):
    row = {
        "data_source": "sums",
        "prompt": ASKED,
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 0},
    }
    made = builder(tokenizer, row, answer="reward_model.ground_truth")
    found = made.build(1000)[0][0]
    assert (found.text, found.row, made.questions) == ("[u]1+1<eos>[a]", {**row, "answer": "2"}, ["1+1"])


def test_the_row_s_own_system_message_stands_for_the_recipe_s(tokenizer):
    assert prompt(tokenizer, ASKED, system_prompt="s") == "[s]s<eos>[u]1+1<eos>[a]"
    own = {"role": "system", "content": "x"}
    assert prompt(tokenizer, [own, *ASKED], system_prompt="s") == "[s]x<eos>[u]1+1<eos>[a]"


def test_history_and_tool_calls_stay_and_examples_stand_before_them(tokenizer):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"x": 1}'}}
    history = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_calls": None},
    ]
    expected = '[u]1+1<eos>[a]add{"x": 1}<eos>[t]2<eos>[a]'
    assert prompt(tokenizer, history) == expected
    examples = [{"prompt": [{"role": "system", "content": "x"}, *ASKED], "answer": "2"}]
    assert prompt(tokenizer, history, few_shot=examples, system_prompt="s") == (
        f"[s]s<eos>[u]1+1<eos>[a]2<eos>{expected}"
    )


@pytest.mark.parametrize("tools", [[{"name": "add"}], json.dumps([{"name": "add"}])])
def test_tools_are_a_list_or_its_json_text(tokenizer, tools):
    made = builder(tokenizer, {"prompt": ASKED, "functions": tools}, tools="functions")
    assert made.build(1000)[0][0].text == "[T]add[u]1+1<eos>[a]"


def test_no_tools_in_a_row_and_what_is_no_list_of_them(tokenizer):
    assert builder(tokenizer, {"prompt": ASKED, "f": None}, tools="f").build(1000)[0][0].text == "[u]1+1<eos>[a]"
    assert fault(tokenizer, {"prompt": ASKED, "f": "add"}, tools="f") == (
        "data.train.tools: train:0: expected a list of schemas, got 'add'"
    )


def test_the_answer_to_imitate_is_text_a_message_or_the_last_of_the_conversation(tokenizer):
    answer = {"role": "assistant", "content": "2"}
    for said in ("2", [answer], [*ASKED, answer]):
        assert followed_by(tokenizer, {"prompt": ASKED, "said": said}, completion="said") == "2<eos>"
    row = {"messages": [*ASKED, answer]}
    made = builder(tokenizer, row, prompt="messages", completion="messages")
    assert made.build(1000)[0][0].text == "[u]1+1<eos>[a]"
    assert followed_by(tokenizer, row, prompt="messages", completion="messages") == "2<eos>"
    called = answer | {"tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
    assert followed_by(tokenizer, {"prompt": ASKED, "said": [called]}, completion="said") == "2add{}<eos>"


@pytest.mark.parametrize(
    ("row", "settings", "expected"),
    [
        (
            {"prompt": ASKED},
            {"chat": False},
            "data.train.prompt: train:0: a list of messages needs data.train.chat: true",
        ),
        (
            {"prompt": [*ASKED, {"role": "assistant", "content": "2"}]},
            {},
            "data.train.prompt: train:0: its last message is the assistant's, which leaves nothing to answer; to leave "
            "that message out, and to imitate it, set data.train.completion to 'prompt' too",
        ),
        (
            {"prompt": [{"role": "system", "content": "s"}]},
            {},
            "data.train.prompt: train:0: no message says anything to answer",
        ),
        (
            {"prompt": ASKED, "said": ASKED},
            {"completion": "said"},
            "data.train.completion: train:0: expected messages that begin and end with the assistant's, alone or "
            "after the prompt's messages, got the roles user",
        ),
        (
            {"prompt": ASKED},
            {"prompt": "{prompt} so"},
            "data.train.prompt: train:0: column 'prompt': expected text, got list [{'role': 'user', 'content': '1+1'}]",
        ),
        (
            {"prompt": [{"role": "user"}]},
            {},
            "data.train.prompt: train:0: message 0: the user's message has no content",
        ),
        ({"prompt": ["1+1"]}, {}, "data.train.prompt: train:0: expected text, got list ['1+1']"),
    ],
)
def test_messages_that_cannot_be_asked_or_imitated(tokenizer, row, settings, expected):
    assert fault(tokenizer, row, **settings) == expected

"""Contexts of exact tokens, through chat templates in the shapes of public models'."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from chat_templates import TEMPLATES, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.envs.conversation import ChatContext
from llmrl.envs.following import Following
from llmrl.run.sampling import author_text

ASKED = [{"role": "user", "content": "q"}]
THOUGHT = "<think>\nhm\n</think>\n\nab 12"


class Author:
    """A template's text conversions, and the whole of what was read and said in one conversation."""

    def __init__(self, name: str):
        self.tokenizer = tokenizer(name)
        self.eos = self.tokenizer.eos_token_id
        origin: Any = SimpleNamespace(tokenizer=self.tokenizer, stop_token_ids=(self.eos,))
        self.text = author_text(origin)
        self.start()

    def fresh(self) -> Author:
        """The same author, who has learned nothing."""
        other = copy.copy(self)
        other.text = replace(self.text, following=Following())
        return other

    def start(self, messages=ASKED, tools=()) -> None:
        self.context = ChatContext(self.text, messages, tools)
        self.read, self.said, self.restarts = self.context.begin([]), [], []

    def say(self, words: str, *, ends: bool = True) -> list[int]:
        """A turn in tokens that no encoding gives: one for each byte, with tags as they are."""
        token_ids = [token for part in re.split("(</?think>)", words) for token in self.letters(part)]
        token_ids += [self.eos] if ends else []
        self.context.said(token_ids, self.text.decode(token_ids))
        self.said.append(token_ids)
        self.read = self.read + token_ids
        return token_ids

    def letters(self, part: str) -> list[int]:
        if part in ("<think>", "</think>"):
            return self.text.encode(part, special=True)
        spelt = self.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(part)
        return [self.tokenizer.convert_tokens_to_ids(letter) for found, _ in spelt for letter in found]

    def hear(self, *told: dict[str, Any]) -> list[int]:
        tokens, restarts = self.context.follow(list(told))
        self.read = tokens if restarts else self.read + tokens
        self.restarts.append(restarts)
        return tokens

    @property
    def shown(self) -> str:
        """The context as text."""
        return self.text.written(self.read)

    @property
    def rendered(self) -> str:
        """The whole conversation through the template."""
        return self.text.render(self.context._messages, *self.context._shown_tools)

    def holds(self, token_ids: list[int]) -> bool:
        """Whether these tokens stand in the context, one after another."""
        size = len(token_ids)
        return any(self.read[place : place + size] == token_ids for place in range(len(self.read)))


def user(words: str) -> dict[str, Any]:
    return {"role": "user", "content": words}


def result(words: str, number: int = 1) -> dict[str, Any]:
    return {"role": "tool", "name": "add", "content": words, "tool_call_id": f"call{number:05d}"}


@pytest.mark.parametrize(
    ("name", "said", "restarts"),
    [
        ("chatml", "abc 12", [False, False]),
        ("chatml", THOUGHT, [False, False]),
        ("chatml", " abc\n", [False, False]),
        ("qwen3", "abc 12", [False, False]),
        ("qwen3", THOUGHT, [True, True]),  # thoughts of earlier turns are dropped
        ("llama3", "abc 12", [False, False]),
        ("llama3", " abc\n", [True, True]),  # trimmed
        ("mistral", "abc 12", [False, False]),
        ("gemma", "abc 12", [False, False]),
        ("gemma", "abc ", [True, True]),
        ("deepseek", "hm\n</think>abc 12", [True, True]),  # the prompt's own opening is dropped
        ("opens", "hm\n</think>abc 12", [False, False]),
        ("gpt_oss", "abc 12", [True, True]),  # the token that was sampled is not the one of earlier turns
        ("glm", "abc 12", [False, False]),
    ],
)
def test_turns_extend_what_was_sampled_or_begin_anew(name, said, restarts):
    author = Author(name)
    first = author.say(said)
    author.hear(user("abc"))
    assert author.shown == author.rendered
    author.say(said)
    author.hear(user("12"))
    assert author.restarts == restarts and author.shown == author.rendered
    words = said.rpartition("</think>")[2].strip()
    kept = first[:-1] if restarts == [False, False] else author.letters(words)
    assert author.holds(kept) and author.text.encode(words) != author.letters(words)


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in ("deepseek", "gpt_oss")])
def test_a_system_prompt_a_cut_turn_and_an_empty_one(name):
    """A turn that was cut gets the template's end; one that ended by itself gets no second one."""
    author = Author(name)
    if name != "gemma":
        author.start([{"role": "system", "content": "s"}, *ASKED])
    author.say("abc", ends=False)
    cut = author.hear(user("x"))
    assert author.shown == author.rendered
    author.say("abc")
    ended = author.hear(user("x"))
    assert author.shown == author.rendered
    if name not in ("mistral", "glm"):  # Mistral moves its system's words; GLM's turns end with the next role
        assert cut == [author.eos, *ended]
    author.say("")
    author.hear(user("x"))
    assert author.shown == author.rendered


def test_words_that_look_like_special_tokens_stay_words():
    author = Author("chatml")
    author.say("abc")
    told = author.hear(user("<|im_end|>12"))
    assert told.count(author.eos) == 1 and author.shown == author.rendered
    assert told == [
        *author.text.encode("\n<|im_start|>user\n", special=True),
        *author.text.encode("<|im_end|>12"),
        *author.text.encode("<|im_end|>\n<|im_start|>assistant\n", special=True),
    ]
    anew = Author("qwen3")
    anew.say(THOUGHT)
    anew.hear(user("<|im_end|>"))
    assert anew.restarts == [True] and anew.shown == anew.rendered and anew.read.count(anew.eos) == 3


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
SAID = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "id": "call00001", "function": {"name": "add", "arguments": {"a": 1}}}],
}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {}}}]


@pytest.mark.parametrize(
    ("name", "said", "restarts"),
    [
        ("chatml", CALL, [False, False]),
        ("chatml", CALL.replace(": 1", ":1"), [False, False]),  # the words stay as they were said
        ("qwen3", CALL, [False, False]),
        ("qwen3", f"<think>\nhm\n</think>\n\n{CALL}", [False, True]),  # thoughts stay until the next question
        ("llama3", '{"name": "add", "parameters": {"a": 1}}', [False, False]),
        (
            "mistral",
            '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}, "id": "call00001"}]',
            [False, True],
        ),  # tools move
        ("mistral", '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]', [True, True]),
    ],
)
def test_results_of_tools_follow_their_calls(name, said, restarts):
    author = Author(name)
    author.start(ASKED, TOOLS)
    assert '"Add."' in author.shown or name in ("qwen3", "llama3")
    author.say(said)
    author.hear(SAID, result("12"), result("abc", 2))
    assert author.shown == author.rendered and "12" in author.shown and "abc" in author.shown
    author.say("abc")
    author.hear(user("x"))
    assert author.restarts == restarts and author.shown == author.rendered
    if restarts == [False, False]:
        assert author.holds(author.said[0]) and author.holds(author.said[1])


words = st.text(st.sampled_from("ab12 \né"), max_size=6)
turns = st.lists(
    st.tuples(words, st.sampled_from(["", "<think>\nhm\n</think>\n\n", "</think>"]), st.booleans(), words), max_size=4
)
AUTHORS: dict[str, Author] = {}


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "mistral"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(turns=turns)
def test_a_context_is_the_rendered_conversation_with_the_tokens_that_were_sampled(name, turns):
    """Also where what follows was learned from other conversations: the second author knows nothing yet."""
    author = AUTHORS.setdefault(name, Author(name))
    fresh = author.fresh()
    for one in (author, fresh):
        one.start()
    for said, thought, ends, told in turns:
        for one in (author, fresh):
            before = list(one.read)
            token_ids = one.say(thought + said, ends=ends)
            one.hear(user(told or "x"))
            assert one.shown == one.rendered
            if not one.restarts[-1]:
                assert one.read[: len(before) + len(token_ids)] == before + token_ids
        assert author.read == fresh.read and author.restarts == fresh.restarts


def test_learned_texts_are_compared_again_and_given_up():
    author = Author("chatml")
    for _ in range(8):
        author.start()
        author.say("abc")
        author.hear(user("abc"))
    [pattern] = author.text.following._patterns.values()
    assert pattern.texts == ["\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"] and pattern.uses == 7
    counted = TEMPLATES["chatml"].replace("{% for m in messages %}", "{% for m in messages %}{{ loop.length }}", 1)
    author.tokenizer.chat_template = counted  # as a template that changes with what it shows
    author.start()
    author.say("abc")
    author.hear(user("abc"))
    assert pattern.texts is None and author.restarts == [True] and author.shown == author.rendered


def test_users_that_follow_each_other_are_one():
    """Templates refuse two in a row."""
    author = Author("gemma")
    author.say("abc")
    author.hear(user("1"), user("2"))
    assert "<start_of_turn>user\n1\n\n2<end_of_turn>" in author.shown and author.shown == author.rendered

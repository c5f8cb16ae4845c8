r"""Answers that follow prompts, through small templates with the shapes of public models' ones.

<u> and <a> open a turn, <e> ends one. Each table's row: an answer, and the text that should follow the prompt.
"""

from __future__ import annotations

from typing import Any

import pytest

from llmrl.data.chat import Conversation
from llmrl.data.messages import Message, messages_of
from llmrl.models.loading import character_tokenizer

ASKED = [{"role": "user", "content": "q"}]
LATER = [*ASKED, {"role": "assistant", "content": "<think>\nold\n</think>\n\np"}, {"role": "user", "content": "r"}]
THOUGHT = "<think>\nhm\n</think>\n\n7"


def turns(assistant: str, ask: str = "<a>", end: str = "") -> str:
    """A template whose assistant turns are written by `assistant`, and whose prompts end with `ask`."""
    return (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        + assistant
        + "{% else %}<{{ m.role[0] }}>{{ m.content }}<e>{% endif %}{% endfor %}"
        + end
        + "{% if add_generation_prompt %}"
        + ask
        + "{% endif %}"
    )


CUT = "{{ m.content.split('</think>')[-1].lstrip('\\n') }}"
PARSED = (
    "{% set parts = m.content.split('</think>') %}<a>{% if loop.last %}<think>\n"
    "{{ parts[0].split('<think>')[-1].strip('\\n') if parts|length > 1 }}\n</think>\n\n{% endif %}"
    "{{ parts[-1].lstrip('\\n') }}<e>"
)
SHAPES = {
    "chatml": turns("<a>{{ m.content }}<e>"),
    "trims": turns("<a>{{ m.content | trim }}<e>"),  # Llama 3, Gemma
    "parses": turns(PARSED),  # Qwen3: adds an empty thought to the last answer, drops earlier thoughts
    "opens": turns(f"<a>{CUT}<e>", "<a><think>\n"),  # DeepSeek R1: opens a thought, drops all thoughts
    "opens and parses": turns(PARSED, "<a><think>\n"),  # Qwen3.5 and 3.6
    "opens and adds": turns("<a><think>\n\n</think>\n\n{{ m.content }}<e>", "<a><think>\n"),  # Qwen3.8
    "opens, tags elsewhere": turns(  # Nemotron
        "<a>{% if '<think>' not in m.content %}<think></think>{% endif %}{{ m.content }}<e>", "<a><think>\n"
    ),
    "closes": turns(PARSED, "<a><think>\n\n</think>\n\n"),  # Qwen3.5 without thinking
    "closes, drops": turns(f"<a>{CUT}<e>", "<a></think>"),  # DeepSeek V3.1
    "drops": turns(f"<a>{CUT}<e>"),
    "channels": turns("<a><c>final<m>{{ m.content }}{{ '<r>' if loop.last else '<e>' }}"),  # gpt-oss
    "channels, drops": turns(f"<a><c>final<m>{CUT}<r>"),
    "one end": turns("<a>{{ m.content }}<e>", end="{% if not add_generation_prompt %}<s>{% endif %}"),  # Phi-3
    "no end": turns("<a>\n{{ m.content }}", "<a>"),  # GLM
    "system last": (  # Mistral: the system prompt stands in the last user turn
        "{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
        "<u>{{ s if loop.last or (loop.revindex0 == 1 and loop.nextitem.role == 'assistant') }}{{ m.content }}<e>"
        "{% else %}<a>{{ m.content }}<e>{% endif %}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    ),
}


def follows(template: str, content: str | None, messages: list[dict[str, Any]] = ASKED, **said: Any) -> str:
    tokenizer = character_tokenizer("01")
    tokenizer.chat_template = template
    return Conversation(tokenizer, messages_of(messages)).answer(messages_of([answer(content, **said)])[0])


def answer(content: str | None, **said: Any) -> Message:
    return {"role": "assistant", "content": content, **said}


@pytest.mark.parametrize("messages", [ASKED, LATER], ids=["asked", "later"])
@pytest.mark.parametrize(
    ("shape", "content", "expected"),
    [
        ("chatml", "7", "7<e>"),
        ("chatml", THOUGHT, f"{THOUGHT}<e>"),
        ("chatml", " 7 ", " 7 <e>"),
        ("trims", " 7 ", "7<e>"),
        ("parses", "7", "<think>\n\n</think>\n\n7<e>"),
        ("parses", THOUGHT, f"{THOUGHT}<e>"),
        ("parses", "<think>hm</think>7", f"{THOUGHT}<e>"),
        ("opens", THOUGHT, "hm\n</think>\n\n7<e>"),
        ("opens", "<think>hm</think>7", "hm</think>7<e>"),
        ("opens", "hm\n</think>\n\n7", "hm\n</think>\n\n7<e>"),
        ("opens and parses", "7", "\n</think>\n\n7<e>"),
        ("opens and parses", THOUGHT, "hm\n</think>\n\n7<e>"),
        ("opens and adds", "7", "\n</think>\n\n7<e>"),
        ("opens and adds", THOUGHT, "hm\n</think>\n\n7<e>"),
        ("opens, tags elsewhere", THOUGHT, "hm\n</think>\n\n7<e>"),
        ("closes", "7", "7<e>"),
        ("closes, drops", "7", "7<e>"),
        ("drops", "7", "7<e>"),
        ("drops", THOUGHT, f"{THOUGHT}<e>"),
        ("channels", "7", "<c>final<m>7<r>"),
        ("channels, drops", THOUGHT, f"<c>final<m>{THOUGHT}<r>"),
        ("one end", "7", "7<e><s>"),
        ("no end", "7", "\n7"),
    ],
)
def test_what_follows_a_prompt(shape, content, expected, messages):
    assert follows(SHAPES[shape], content, messages) == expected


def test_a_system_prompt_that_moves_stays_where_the_prompt_has_it():
    system = {"role": "system", "content": "s"}
    assert follows(SHAPES["system last"], "7", [system, *ASKED]) == "7<e>"
    assert follows(SHAPES["system last"], "7", [system, *LATER]) == "7<e>"


@pytest.mark.parametrize(
    ("shape", "content", "fault"),
    [
        (
            "opens",
            "7",
            "the prompt opens a thought with '<think>' and the completion does not close it: write '</think>' into the "
            "completion, or set what makes the template not think in model.chat_template_kwargs; after '<u>q<e><a>' "
            "the prompt has '<think>\\n', the conversation '7<e>'",
        ),
        (
            "opens, tags elsewhere",
            "7",
            "after '<u>q<e><a><think>' the prompt has '\\n', the conversation '</think>7<e>'",
        ),
        (
            "closes",
            THOUGHT,
            "the completion has a thought of its own where the prompt has just closed one with '</think>'; after "
            "'<u>q<e><a><think>\\n' the prompt has '\\n</think>\\n\\n', the conversation 'hm\\n</think>\\n\\n7<e>'",
        ),
        ("closes, drops", THOUGHT, "where the prompt has just closed one with '</think>'"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused_with_both_texts(shape, content, fault):
    with pytest.raises(ValueError) as caught:
        follows(SHAPES[shape], content)
    assert fault in str(caught.value)


def test_a_template_that_changes_the_question_once_it_is_answered_is_refused():
    counts = "{{ messages | length }}" + SHAPES["chatml"]
    with pytest.raises(ValueError) as caught:
        follows(counts, "7")
    assert str(caught.value) == (
        "the chat template does not render the prompt as the start of its conversation; after '' the prompt has "
        "'1<u>q<e><a>', the conversation '2<u>q<e><a>7<e>'"
    )
    other = turns("<b>{{ m.content }}<e>")
    with pytest.raises(ValueError, match="after '<u>q<e><' the prompt has 'a>', the conversation 'b>7<e>'"):
        follows(other, "7")


@pytest.mark.parametrize(("written", "told"), [("<a><e>", "<e>"), ("<a>{{ m.content | upper }}<e>", "<B>X</B><e>")])
def test_a_template_that_drops_or_changes_the_answer_is_refused(written, told):
    with pytest.raises(ValueError) as caught:
        follows(turns(written), "<b>x</b>")
    assert str(caught.value) == (
        "the chat template drops or changes the answer; after '<u>q<e><a>' the prompt has '', "
        f"the conversation {told!r}"
    )


CALLS = "{% for c in m.tool_calls or [] %}({{ c.function.name }} {{ ARGUMENTS }}){% endfor %}"
AS_JSON = turns("<a>{{ m.content }}" + CALLS.replace("ARGUMENTS", "c.function.arguments | tojson") + "<e>")
AS_TEXT = turns("<a>{{ m.content }}" + CALLS.replace("ARGUMENTS", "'' + c.function.arguments + ''") + "<e>")
AS_ITEMS = turns("<a>{{ m.content }}" + CALLS.replace("ARGUMENTS", "c.function.arguments.items() | list") + "<e>")
ONLY_NULL = turns(
    "<a>{% if m.content is none %}" + CALLS.replace(" {{ ARGUMENTS }}", "") + "{% else %}{{ m.content }}{% endif %}"
)


@pytest.mark.parametrize("given", ['{"x": "é"}', {"x": "é"}])
@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (AS_JSON, '(f {"x": "é"})<e>'),
        (AS_TEXT, '(f {"x": "é"})<e>'),
        (AS_ITEMS, "(f [('x', 'é')])<e>"),
        (ONLY_NULL, "(f)"),
    ],
)
def test_tool_calls_are_written_once_in_answers_and_in_history(template, expected, given):
    calls: dict[str, Any] = {"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": given}}]}
    assert follows(template, None, **calls) == expected
    tokenizer = character_tokenizer("01")
    tokenizer.chat_template = template
    history = messages_of([*ASKED, answer(None, **calls), {"role": "tool", "content": "1"}])
    assert Conversation(tokenizer, history).prompt == f"<u>q<e><a>{expected}<t>1<e><a>"


def test_calls_and_thoughts_that_the_template_drops_are_refused():
    call = [{"function": {"name": "f", "arguments": {}}}]
    with pytest.raises(ValueError, match="the chat template does not show the call of the tool 'f'"):
        follows(SHAPES["chatml"], "", tool_calls=call)
    tokenizer = character_tokenizer("01")
    tokenizer.chat_template = (
        "{{ tools }}" + SHAPES["chatml"]
    )  # the name is in the list of tools, the call is not shown
    history = messages_of([*ASKED, answer(None, tool_calls=call), {"role": "tool", "content": "1"}])
    with pytest.raises(ValueError, match="the chat template does not show the call of the tool 'f'"):
        _ = Conversation(tokenizer, history, [{"name": "f"}]).prompt
    with pytest.raises(
        ValueError, match="drops a part of what is said; after '<u>q<e><a>' the prompt has '', the conv"
    ):
        follows(SHAPES["chatml"], "7", reasoning_content="hm")
    kept = turns("<a>{{ m.reasoning_content }};{{ m.content }}<e>")
    assert follows(kept, "7", reasoning_content="hm") == "hm;7<e>"

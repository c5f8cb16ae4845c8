from __future__ import annotations

import pytest

from llmrl.errors import RecipeError
from llmrl.models.chat_template import from_file, with_defaults
from llmrl.models.loading import character_tokenizer, load_tokenizer

THINKING = (
    "\n{{ '' }}{%- macro tag() %}"
    "{{ 'off' if enable_thinking is defined and not enable_thinking else 'on' }}{%- endmacro %}"
    "{%- for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{%- endfor %}[{{ tag() }}{{ effort }}]"
)
ASKED = [{"role": "user", "content": "1"}]


def rendered(tokenizer, **values) -> str:
    return tokenizer.apply_chat_template(ASKED, tokenize=False, **values)


def test_values_become_the_template_s_own_defaults_and_are_saved_with_it(tmp_path):
    tokenizer = character_tokenizer("01")
    tokenizer.chat_template = THINKING
    tokenizer.save_pretrained(tmp_path / "a")
    assert rendered(load_tokenizer(tmp_path / "a")) == "\n1[on]"
    values = {"enable_thinking": False, "effort": "lo'w\n"}
    off = load_tokenizer(tmp_path / "a", chat_template_kwargs=values)
    assert rendered(off) == "\n1[offlo'w\n]"
    assert rendered(off, enable_thinking=True, effort=1) == "\n1[on1]"
    off.save_pretrained(tmp_path / "b")
    again = load_tokenizer(tmp_path / "b", chat_template_kwargs=values)
    assert rendered(again) == "\n1[offlo'w\n]" and again.chat_template == off.chat_template


def test_a_variable_that_the_template_sets_from_itself_can_be_given():
    tokenizer = character_tokenizer("01")
    own = "{%- set think = think if think is defined else true %}{% for m in messages %}{{ think }}{% endfor %}"
    tokenizer.chat_template = with_defaults(own, {"think": False})
    assert rendered(tokenizer) == "False"


@pytest.mark.parametrize(
    ("template", "values", "fault"),
    [
        (THINKING, {"enable_thinkin": False}, "named 'enable_thinkin'; did you mean 'enable_thinking'?"),
        (THINKING, {"messages": []}, "no variable of the chat template named 'messages'; valid: effort, enable_thinki"),
        ("{% for %}", {"a": 1}, "the chat template is not valid Jinja"),
        (None, {"a": 1}, "the tokenizer has no chat template to read them; set model.chat_template"),
    ],
)
def test_values_that_nothing_reads_are_refused(template, values, fault):
    with pytest.raises(RecipeError) as caught:
        with_defaults(template, values)
    assert str(caught.value).startswith("model.chat_template_kwargs: ") and fault in str(caught.value)


def test_a_template_may_lie_beside_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "beside.jinja").write_text("{{ messages }}")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert from_file("beside.jinja") == "{{ messages }}"

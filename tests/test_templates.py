from __future__ import annotations

import pytest

from llmrl.templates import RowTemplate

ROW = {"question": "1+1", "messages": [{"content": "a"}, {"content": "b"}], "n": 7, "none": None}


def test_a_template_is_filled_from_columns_paths_and_items():
    template = RowTemplate(r"{question}={messages.1.content}{n} \boxed{{}} {{{n}}}")
    assert template.columns == ["question", "messages.1.content", "n", "n"]
    template.check(ROW)
    assert template.fill(ROW) == r"1+1=b7 \boxed{} {7}"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{none}", "column 'none': expected text, got NoneType None"),
        ("{messages}", "column 'messages': expected text, got list [{'content': 'a'}, {'content': 'b'}]"),
        ("{messages.2.content}", "no item '2' in a list, whose items are 0 to 1"),
    ],
)
def test_a_value_that_is_missing_or_no_text_is_named(template, fault):
    filled = RowTemplate(template)
    filled.check(ROW)
    with pytest.raises(ValueError, match=fault.replace("[", r"\[")):
        filled.fill(ROW)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{quastion}", "no column 'quastion'; did you mean 'question'? (columns: question, messages, n, none)"),
        ('{"a": {n}}', "single '{' at character 0 of '{\"a\": {n}}'; double it to mean a brace"),
        (
            '{"a": 1}',
            "no column '\"a\": 1' (columns: question, messages, n, none); to mean braces write '{{\"a\": 1}}'",
        ),
        (
            r"\boxed{n} \text{so}",
            "no column 'so' (columns: question, messages, n, none); to mean braces write '{{so}}'",
        ),
        (r"\boxed{ }", r"'{ }' at character 6 of '\\boxed{ }' names no column; to mean braces write '{{ }}'"),
    ],
)
def test_braces_that_name_no_column_say_how_to_write_them(template, fault):
    with pytest.raises(ValueError) as caught:
        RowTemplate(template).check(ROW)
    assert str(caught.value) == fault

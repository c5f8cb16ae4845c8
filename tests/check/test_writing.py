"""How the check writes answers: as a model may, and wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from llmrl.check import writing
from llmrl.recipe_rows import Rows
from llmrl.types import Prompt


def prompt(gold: Any, number: int = 0) -> Prompt:
    return Prompt(f"train:{number}", (1,), "q", {"answer": gold})


def written(gold: str, source: Rows, **settings: Any) -> list[str]:
    return [before + gold + after for before, after in writing.ways(source, settings).values()]


def test_the_ways_of_an_answer():
    plain = [r"\boxed{7}", "The answer is 7.", "7", "<answer>7</answer>", "```\n7\n```"]
    assert written("7", Rows(path="a")) == plain
    marked = written("7", Rows(path="a", answer_after="####"), tag="out", after="=")
    assert marked[:4] == [r"\boxed{7}", "The answer is 7.", "7", "<out>7</out>"]
    assert {"= 7", r"= \boxed{7}", "#### 7", "#### <out>7</out>"} < set(marked)


@pytest.mark.parametrize(
    ("answer", "spelt"),
    [(r"\frac{1}{2}", r"\dfrac{1}{2}"), ("1200", "1,200"), ("12", "$12$"), ("x=1", "$x=1$"), ("-1200", "$-1200$")],
)
def test_another_spelling(answer, spelt):
    assert writing.spelt_otherwise(answer) == spelt


def test_golds_are_never_made_by_str():
    assert writing.golds_of(prompt(None)) == writing.golds_of(prompt({"a": 1})) == []
    assert writing.golds_of(prompt([1.0, "one"])) == ["1", "one"]


def test_wrong_answers_are_other_rows_golds_and_constants():
    rows = [prompt(gold, number) for number, gold in enumerate(["5", "5", "7", None])]
    wrong = writing.wrong_answers(rows)
    constants = {text: text for text in ("0", "nan", "I don't know.", "qqq zzz qqq")}
    # the next row with another gold; 5 is the commonest
    assert wrong["train:0"] == {writing.OTHER_GOLD: "7", writing.SAME_GOLD: "5"} | constants
    assert wrong["train:2"] == {writing.OTHER_GOLD: "5", writing.SAME_GOLD: "5"} | constants
    assert writing.wrong_answers([prompt(None)])["train:0"] == constants


def test_the_tags_of_thoughts_are_the_settings_or_the_templates():
    assert writing.thought_tags({}, "{{ m.content.split('[/THINK]') }}") == ("[/THINK]", "[THINK]")
    assert writing.thought_tags({"thoughts_end": "</plan>"}, "[/THINK]") == ("</plan>", "<plan>")
    assert writing.thought_tags({"thoughts_end": ""}, "[/THINK]") == ("", "")
    assert writing.thought_tags({}, "") == ("</think>", "<think>")


def test_thoughts_that_the_prompt_opened_are_finished_before_an_answer():
    assert writing.thought("q", "</think>", "<think>") == "<think>Is it qqq zzz qqq?</think>\n"
    assert writing.opened_thought("q<think>\n", {}) == "Is it qqq zzz qqq?</think>\n"
    assert writing.opened_thought("q<plan>", {"thoughts_end": "</plan>"}) == "Is it qqq zzz qqq?</plan>\n"
    assert writing.opened_thought("q<plan>", {}) == writing.opened_thought("q", {}) == ""
    assert writing.opened_thought("q<think>", {"thoughts_end": ""}) == ""

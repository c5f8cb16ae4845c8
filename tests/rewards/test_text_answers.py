from __future__ import annotations

import pytest

from llmrl.rewards.text_answers import exact_match, f1, normalized, stated_answer
from llmrl.types import Score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hm. <answer>Paris</answer>", "Paris"),
        ("<answer>Rome</answer> no, <answer> Paris </answer>", "Paris"),
        (r"so \boxed{\text{Paris}}", "Paris"),
        ("Answer: Rome\nAnswer: Paris", "Paris"),
        ("The answer is Rome, or rather the answer is Paris.", "Paris"),
        ("Answer: Rome\n<answer>Paris</answer>", "Paris"),
        ("I know Paris", None),
        ("<answer>Paris", None),
    ],
)
def test_stated_answer(text, expected):
    assert stated_answer(text) == expected


def test_normalized():
    assert normalized("  The  U.S.A. -- an apple, a day!\n") == "usa apple day"
    assert normalized("Theatre") == "theatre"


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("the Eiffel  tower.", True),
        ("<answer>Eiffel-Tower</answer>", False),  # punctuation is taken out, not replaced by a blank
        ("<think>Big Ben?</think>\nAnswer: *The Eiffel Tower*", True),
        ("<think>Eiffel Tower", False),
        ("Big Ben", False),
        ("", False),
    ],
)
def test_exact_match(completion, right):
    assert exact_match(completion, "Eiffel Tower") is right
    assert exact_match(completion, ["La tour", "The Eiffel Tower"]) is right


def test_signs_and_decimal_points_do_not_count():
    assert exact_match("The answer is -5", "5") and exact_match("1.5", "15")
    assert not exact_match("6", "5")


def test_f1():
    # "cat sat on mat" and "cat on red mat": 3 words shared of 4 and 4, articles aside: 2 * 3 / 8
    assert f1("The cat sat on a mat.", "a cat on the red mat") == Score(0.75)
    # "big dog dog" and "dog": 1 shared of 3 and 1
    assert f1("big dog dog", "dog").value == 0.5
    assert f1("big dog dog", ["dog", "a big dog"]).value == pytest.approx(0.8)  # 2 * 2 / (3 + 2)
    assert f1("bird", "dog").value == 0.0
    assert f1("the", "a") == Score(1.0) and f1("the", "dog") == Score(0.0)  # no words after normalization
    assert f1("<think>dog", "dog") == Score(0.0)


def test_answers_that_are_the_same_after_normalization_vote_together():
    same = exact_match.reading.same
    assert same("The Paris", "paris!") and not same("Paris", "Rome")


@pytest.mark.parametrize("gold", [None, "", [], {"text": "Paris"}, float("nan")])
def test_a_row_without_an_answer_is_a_fault(gold):
    for reward in (exact_match, f1):
        with pytest.raises(ValueError, match="is no answer"):
            reward("Paris", gold)

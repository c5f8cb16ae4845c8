from __future__ import annotations

import time

import pytest

from llmrl.rewards.choice_letter import choice_letter


def chosen(completion: str, prompt: str = "", **settings: str) -> str | None:
    return choice_letter.reading.read(completion, prompt, **settings)


@pytest.mark.parametrize(
    "completion",
    [
        "D",
        "(D)",
        "D.",
        "**D**",
        "d",
        "(d)",
        "D. Paris",
        "(D) Paris",
        r"\boxed{D}",
        r"so $\boxed{\text{D}}$.",
        r"\boxed{\textbf{(D) }12}",
        r"\boxed{D. Paris}",
        "<answer> D. Paris </answer>",
        "Answer: D",
        "**Answer:** D",
        "Answer: [D]",
        "Final answer: option (D)",
        "Answer: d",
        "The answer is (D), since (A) fails.",
        "So the answer is D because A is wrong.",
        "The answer is not A. The answer is D",
        "The correct answer is:\n\n**D. Paris**",
        "the correct answer is **D) Paris**",
        "(A) is wrong, (B) is wrong, so the answer must be (D).",
        "The correct option is D.",
        "The correct choice is (D) 12 m",
        "Option A is wrong. Option D is correct.",
        "After all, D is the correct answer.",
        "I choose (D)",
        "I'd go with D.",
        "It must be (D)",
        "The correct choice is D.",
        "Therefore, D.",
        "A is wrong. Thus **D**",
        "Therefore, A is wrong.\nSo, (D).",
        "答案是D。",
        "答案\uff1aD",
        "A不对\uff0c正确答案应该是\uff08D\uff09\uff0c因为A错。",
        "Let us see.\n\nD",
        "D\n\nBecause it is the capital.",
        "D. Paris\nBecause it is the capital.",
        "A. one\nB. two\nC. three\nD. four\nThe answer is D.",
        "<think>A? B?</think>D",
    ],
)
def test_the_option_that_is_chosen(completion):
    assert chosen(completion) == "D"
    assert choice_letter(completion, "D") and not choice_letter(completion, "A")


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "A cat is a nice animal.",
        "I think so.",
        "I'm not sure",
        "I'm sure it's C",
        "Answer: A or B",
        "Answer: A, B",
        "It must be (A) or (C)",
        "The answer is a good one.",
        "The answer is Paris",
        "A. one\nB. two\nC. three\nD. four",
        "(A) is wrong, hence not that.",
        "Therefore, A is wrong.",
        "Therefore, A or B.",
        "Thus, A cat.",
        "And so I",
        "答案不是A。",
        "答案是A吗\uff1f",
        "答案是A或B。",
        "答案是A\uff0cB。",
        "答案\uff1aA、B",
        r"\boxed{A",
        "<think>D",
    ],
)
def test_no_option_is_chosen(completion):
    assert chosen(completion) is None
    assert not choice_letter(completion, "A")


def test_the_prompt_may_have_opened_the_thoughts_or_the_answer():
    assert chosen("A? B?</think>\nD", "Which?<think>") == "D"
    assert chosen("A? B?", "Which?<think>") is None
    assert chosen("D</answer>", "Which?<answer>") == "D"


@pytest.mark.parametrize("gold", ["D", "(D)", "D. Paris", "d", 3, ["B", "D"]])
def test_what_a_row_may_name(gold):
    assert choice_letter("D", gold) and not choice_letter("C", gold)


@pytest.mark.parametrize("gold", [None, "Paris", "K", "1", -1, 12, True, 3.0, ["D", None]])
def test_a_row_that_names_no_option_is_a_fault(gold):
    with pytest.raises(ValueError, match="is not valid, expected a letter of ABCDEFGHIJ, or its place, 0 for A"):
        choice_letter("D", gold)


def test_letters_beyond_the_choices_are_no_options():
    assert chosen("Answer: E", choices="ABCD") is None
    assert chosen("Answer: K", choices="ABCDEFGHIJK") == "K"
    with pytest.raises(ValueError, match="a letter of ABCD,"):
        choice_letter("A", "E", choices="ABCD")


@pytest.mark.parametrize(
    "part", ["*", "(A", "answer is ", "A) ", "option ", "A. x\n", "is (", r"\boxed{", "<", "答案是", "thus, A "]
)
def test_long_texts_are_read_in_no_time(part):
    started = time.monotonic()
    chosen(part * 20_000 + "D")
    assert time.monotonic() - started < 2

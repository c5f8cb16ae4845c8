"""The part of a completion that is taken as its final answer."""

from __future__ import annotations

import pytest

from llmrl.rewards.math_verifier import final_answer, math_verifier, same_answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        # thoughts
        (r"<think>perhaps \boxed{8}, but let me", None),
        (r"<think>perhaps \boxed{8}</think> So \boxed{9}", "9"),
        (r"<think>maybe \boxed{8}</think> The answer is 9.", "9"),
        (r"<think>maybe \boxed{8}</think>", None),
        (r"perhaps \boxed{8}</think> \boxed{9}", "9"),
        (r"[THINK]8[/THINK]It is 9", "9"),
        # boxes
        (r"\boxed{3}, then \boxed{4}", "4"),
        (r"so \boxed 8", "8"),
        (r"so \boxed 12.5 it is", "12.5"),
        (r"so $\boxed\frac12$", r"\frac12"),
        (r"Put it into \boxed. The answer is 8", "8"),
        (r"Put it into \boxed{}. The answer is 8", "8"),
        (r"I write \boxed{8}, as \boxed asks", "8"),
        (r"\boxed{8} or \boxed{", None),
        (r"\\boxed{8}", "8"),
        (r"\boxed{\text{\boxed{8}}}", "8"),
        # answer lines
        ("\\boxed{a \\ll b}\n\n**Answer: D**", "D"),
        ("3 + 4 = 7\nAnswer: (C)", "(C)"),
        ("Answer: 5\nI checked 12 cases.\nFinal answer: 7", "7"),
        ("Answer: $\\frac{\\sqrt{3}}{2}$", r"$\frac{\sqrt{3}}{2}$"),
        ("**Final Answer:** 42", "42"),
        ("Answer: the train leaves at 7", "7"),
        ("Answer: 5\n\nso \\boxed{6}", "6"),
        ("Answer: $\\boxed{D}$", "D"),
        # formulas and numbers
        (r"So the point is $(1, 4.5)$.", "(1, 4.5)"),
        (r"Hence \(3\sqrt{2}\).", r"3\sqrt{2}"),
        (r"Hence \[x = 5\]", "x = 5"),
        ("It costs $5 and then $6", "$6"),
        ("It costs $5 and then $6.", "$6"),
        ("So we get 5 (see step 2).", "5"),
        ("So we get 5 (by equation 3).", "5"),
        ("The answer is 5. Let me check it once more.", "5"),
        ("所以答案是58。", "58"),
        ("先有 9 个，最后是58个。", "58"),  # noqa: RUF001
        ("所以答案是-58。", "-58"),
        ("答えは12です", "12"),
        ("정답은 7입니다", "7"),
        ("The answer is \u22125.", "-5"),
        ("so it is negative 5", "-5"),
        ("The answer is 72!", "72"),
        ("That gives 3.5 million people.", "3.5 million"),
        ("The area is $12\\pi$ cm$^2$.", r"12\pi"),
        ("### Final Answer\n42", "42"),
        ("The answer is (B).", "(B)"),
        ("**B**", "B"),
        ("The answer is x+1.", "x+1"),
        ("no number", None),
    ],
)
def test_final_answer(completion, answer):
    assert final_answer(completion) == answer


@pytest.mark.parametrize(
    ("completion", "prompt", "answer"),
    [
        ("8</think>9", "question<think>\n", "9"),
        ("8", "question<think>\n", None),
        ("9", "question<think>\n\n</think>\n\n", "9"),
    ],
)
def test_the_template_may_have_opened_the_thoughts(completion, prompt, answer):
    assert final_answer(completion, prompt) == answer


@pytest.mark.parametrize(
    ("completion", "prompt", "answer"),
    [("9</answer>", "question <answer>", "9"), ("9", "question <answer>", None), ("9</answer>", "question", None)],
)
def test_the_template_may_have_opened_the_tag(completion, prompt, answer):
    assert final_answer(completion, prompt, extract="tag") == answer


@pytest.mark.parametrize(
    ("gold", "completion", "right"),
    [
        ("3, 5, 7", r"roots \boxed{3}, \boxed{5} and \boxed{7}", True),
        ("3, 5, 7", r"\boxed{3}, \boxed{5} and \boxed{8}", False),
        ("3, 5, 7", r"\boxed{3}, \boxed{5}", False),
        ("3, 5, 7", r"\boxed{7}, \boxed{3}, \boxed{5}", True),
        (r"\{3,5\}", r"\boxed{5} and \boxed{3}", True),
        ("7", r"\boxed{3}, \boxed{5} and \boxed{7}", True),
        ("5", r"\boxed{3}, \boxed{5} and \boxed{7}", False),
        ("(3,5)", r"\boxed{3}, \boxed{5}", False),
        ("k=45, n=2", r"\boxed{k=45} and \boxed{n=2}", True),
        ("3, 5", r"<think>\boxed{3}</think> \boxed{5}", False),
    ],
)
def test_several_boxes_are_a_list_where_the_gold_is_one(gold, completion, right):
    assert math_verifier(completion, gold).correct is right


def test_a_recipe_names_the_tag_that_ends_the_thoughts():
    assert math_verifier("<plan>8</plan>9", "9", thoughts_end="</plan>").correct
    assert not math_verifier("<plan>9", "9", thoughts_end="</plan>").correct
    assert math_verifier("<think>9", "9", thoughts_end="").correct


def test_answers_are_the_same_from_either_side():
    assert same_answer(r"\frac12", "0.5")
    assert same_answer("(3,\\infty)", "x>3")
    assert same_answer("x>3", "(3,\\infty)")
    assert not same_answer("3", "4")
    assert same_answer("50%", "0.5", percent="ratio")
    assert not same_answer("50%", "0.5", percent="unit")

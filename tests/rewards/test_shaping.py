from __future__ import annotations

import re

import pytest

from llmrl.errors import RecipeError
from llmrl.rewards.reward import Reward
from llmrl.rewards.shaping import (
    cosine_length,
    format_pattern,
    group_length,
    length_penalty,
    overlong_penalty,
    reasoning_steps,
    repetition_penalty,
    tag_count,
    think_answer_format,
    think_format,
    token_repetition_penalty,
)
from llmrl.types import ACTOR, Group, Prompt, Score, Trajectory, Turn

WHOLE = "<think>\nwhy\n</think>\n<answer>\n5\n</answer>"


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (16384, 0.0),  # exactly 20480 - 4096: still free
        (18432, -0.5),  # 2048 over, of a buffer of 4096
        (20480, -1.0),
        (25000, -1.0),
        (0, 0.0),
    ],
)
def test_overlong_penalty(tokens, expected):
    assert overlong_penalty(tokens, max_tokens=20480, buffer_tokens=4096) == Score(expected)


def test_overlong_buffer_is_a_fifth_unless_given():
    # 20480 / 5 = 4096, so 18432 is half-way into it
    assert overlong_penalty(18432, max_tokens=20480).value == -0.5


def test_overlong_penalty_factor_and_bad_buffer():
    # 8 tokens of 10, buffer 4: (8 - 6) / 4 = 0.5, times 3
    assert overlong_penalty(8, max_tokens=10, buffer_tokens=4, factor=3.0).value == -1.5
    assert overlong_penalty(99, max_tokens=10, buffer_tokens=4, factor=3.0).value == -3.0
    with pytest.raises(ValueError, match="larger than max_tokens"):
        overlong_penalty(8, max_tokens=4, buffer_tokens=10)


def test_length_penalty():
    # 0.0003 * |1000 - 400| = 0.18 on either side of the target
    assert length_penalty(400, target_tokens=1000).value == pytest.approx(-0.18)
    assert length_penalty(1600, target_tokens=1000).value == pytest.approx(-0.18)
    assert length_penalty(1000, target_tokens=1000).value == 0.0


def test_repetition_penalty():
    # "a b c a b c": 3-grams abc bca cab abc: 3 distinct of 4, so -(1 - 3/4)
    assert repetition_penalty("a b c A B C").value == -0.25
    # "x x x x x": xxx three times: 1 of 3
    assert repetition_penalty("x x x x x").value == pytest.approx(-2 / 3)
    assert repetition_penalty("a b c d").value == 0.0
    assert repetition_penalty("a b").value == 0.0
    assert repetition_penalty("").value == 0.0
    # 2-grams of "x x x": xx twice: 1 of 2
    assert repetition_penalty("x x x", ngram=2, max_penalty=-4.0).value == -2.0


def test_token_repetition_penalty():
    # of 5 5 5 5 5 the 2-grams are 55 four times: 3 of 4 have been there; of 1 2 3 1 2 one of four
    assert token_repetition_penalty([5] * 5, ngram=2).value == -0.75
    assert token_repetition_penalty([1, 2, 3, 1, 2], ngram=2, max_penalty=-2.0).value == -0.5
    assert [token_repetition_penalty(ids).value for ids in ([1, 2, 3, 4], [1, 1], [])] == [0.0, 0.0, 0.0]


def test_format_pattern_matches_the_whole_completion():
    pattern = re.compile(r"(?s)<think>.*</think><answer>.*</answer>")
    assert format_pattern("<think>a\nb</think><answer>c</answer>", pattern=pattern) == Score(1.0)
    assert format_pattern("<think>a</think><answer>c</answer> and more", pattern=pattern) == Score(0.0)
    assert format_pattern("no", pattern=pattern, reward=0.2, otherwise=-0.2) == Score(-0.2)


def test_shaping_gives_no_verdict():
    assert overlong_penalty(5, max_tokens=10, buffer_tokens=4).correct is None
    assert repetition_penalty("a").correct is None


def test_a_repetition_penalty_is_no_reward():
    with pytest.raises(RecipeError, match=r"rewards.repetition_penalty.max_penalty: 1.0 is not valid: .* equal to 0"):
        Reward.from_spec("repetition_penalty", {"max_penalty": 1.0})
    assert Reward.from_spec("repetition_penalty", {"max_penalty": 0}).piece.settings == {"max_penalty": 0.0}


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (WHOLE, 1.0),
        (WHOLE + "\nand more", 1.0),
        (WHOLE + " and more", 0.0),
        ("So: " + WHOLE, 0.0),
        (WHOLE.replace("</think>\n", "</think>"), 0.0),
        (WHOLE.replace("</think>\n", "</think>\n\n"), 0.0),
        (WHOLE.replace("\n5\n", "5"), 0.0),
        (WHOLE.replace("5", "5\n6"), 1.0),
        ("", 0.0),
    ],
)
def test_think_answer_format(completion, expected):
    assert think_answer_format(completion) == Score(expected)


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("<think>\nwhy\n</think>\n5", 1.0),
        ("<think></think>", 1.0),
        ("<think>why 5", 0.0),
        ("<think>why</think> <think>5", 0.0),
        (" <think>why</think>5", 0.0),
        ("why</think>5", 0.0),
    ],
)
def test_think_format(completion, expected):
    assert think_format(completion) == Score(expected)


def test_a_prompt_may_have_opened_the_thoughts():
    opened = "<user>5?<assistant><think>\n"
    rest = WHOLE.removeprefix("<think>\n")
    assert [form(rest, opened).value for form in (think_format, think_answer_format, tag_count)] == [1.0, 1.0, 1.0]
    assert [form(rest, "5?").value for form in (think_format, think_answer_format, tag_count)] == [0.0, 0.0, 0.75]


def test_tag_count():
    assert tag_count(WHOLE) == Score(1.0)
    # <think> stands there twice, and </think> and </answer> on no line of their own
    assert tag_count("<think>\n<think>\nwhy</think>\n<answer>\n5</answer>").value == 0.25
    assert tag_count("<think>\nwhy\n</think>\n").value == 0.5
    assert tag_count("[a] [b] [b]", tags=("[a]", "[b]", "[c]")).value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("completion", "count"),
    [
        ("Step 1: a\nStep 2: b", 2),
        ("1. a\n2. b\n3. c", 1),  # a number counts at the beginning of the text alone
        ("\n- a\n* b\n-c", 3),
        ("- a", 0),
        ("First, a. Next, b. Finally, c. Second, d.", 4),
        ("first, a", 0),
        ("plain", 0),
    ],
)
def test_reasoning_steps(completion, count):
    assert reasoning_steps(completion).value == min(1.0, count / 3)
    assert reasoning_steps(completion, steps=4).value == count / 4


def test_reasoning_steps_with_a_pattern_of_the_recipe():
    assert reasoning_steps("so so so", steps=6, pattern=re.compile("so")).value == 0.5


@pytest.mark.parametrize(
    ("length", "correct", "expected"),
    [
        (0, True, 1.0),
        (25, True, 0.926777),  # 0.5 + 0.25 * (1 + cos(pi / 4)) = 0.75 + 0.25 * 0.707107
        (50, True, 0.75),
        (100, True, 0.5),
        (130, True, 0.5),
        (0, False, -1.0),
        (25, False, -0.926777),
        (50, False, -0.75),
        (100, False, -0.5),
        (200, False, -0.5),
    ],
)
def test_cosine_length(length, correct, expected):
    assert cosine_length("x" * length, correct, max_characters=100).value == pytest.approx(expected, abs=1e-6)


def test_cosine_length_between_ends_of_the_recipe():
    ends = {"min_value_correct": 1.0, "max_value_correct": 3.0, "min_value_wrong": -5.0, "max_value_wrong": -1.0}
    assert [cosine_length("x" * 5, c, max_characters=10, **ends).value for c in (True, False)] == [2.0, -3.0]


def group(*answers: tuple[int, bool | None]) -> Group:
    """Answers of so many characters each, with their verdicts."""
    prompt = Prompt("p0", (1,), "", {})
    trajectories = [Trajectory(prompt, [Turn(ACTOR, [3])], "stop", "x" * length) for length, _ in answers]
    for trajectory, (_, correct) in zip(trajectories, answers, strict=True):
        trajectory.scores["verifier"] = Score(0.0, correct)
    return Group(prompt, trajectories)


def test_group_length():
    # lengths 10, 14, 20, 14: (L - 10) / 10 = 0, 0.4, 1, 0.4; the last one is wrong and short, which earns nothing
    assert group_length(group((10, True), (14, True), (20, False), (14, False))) == pytest.approx([0.5, 0.1, -0.5, 0.0])
    assert group_length(group((7, True), (7, False))) == [0.0, 0.0]


def test_what_reads_a_verdict_needs_one():
    for call in (lambda: cosine_length("5", None), lambda: group_length(group((1, None), (2, True)))):
        with pytest.raises(ValueError, match="no other reward of this row gives one"):
            call()

from __future__ import annotations

import re

import pytest

from llmrl.rewards.shaping import format_pattern, length_penalty, overlong_penalty, repetition_penalty
from llmrl.types import Score


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


def test_format_pattern_matches_the_whole_completion():
    pattern = re.compile(r"(?s)<think>.*</think><answer>.*</answer>")
    assert format_pattern("<think>a\nb</think><answer>c</answer>", pattern=pattern) == Score(1.0)
    assert format_pattern("<think>a</think><answer>c</answer> and more", pattern=pattern) == Score(0.0)
    assert format_pattern("no", pattern=pattern, reward=0.2, otherwise=-0.2) == Score(-0.2)


def test_shaping_gives_no_verdict():
    assert overlong_penalty(5, max_tokens=10, buffer_tokens=4).correct is None
    assert repetition_penalty("a").correct is None

from __future__ import annotations

import time

import pytest

from llmrl.rewards.extraction import last_boxed, last_line, last_number, last_tag, text_after


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{a} \boxed{b}", "b"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\fbox{4}", "4"),
        (r"\boxed{}", None),
        (r"\boxed{a", None),
        (r"\boxed{a} \boxed{b", None),
        (r"\boxed 5", "5"),
        ("5", None),
    ],
)
def test_last_boxed(text, expected):
    assert last_boxed(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so 48 + 24 = 72.", "72"),
        ("$1,250.50 in all", "$1,250.50"),
        ("-$5", "-$5"),
        ("it fell by -3.5 degrees", "-3.5"),
        ("10-5", "5"),
        ("10 - 5", "5"),
        ("(2)-5", "5"),
        ("n-5", "5"),
        ("1, 2, 3", "3"),
        ("1,2,3", "3"),
        ("100,200", "100,200"),
        ("45 %", "45 %"),
        ("3/4", "3/4"),
        ("3 1/2", "3 1/2"),
        (r"\frac{3}{4}", r"\frac{3}{4}"),
        ("25 cm^2", "25"),
        ("6 of H2O", "6"),
        ("a_1 = 7, a_2", "7"),
        (r"4 then 3\sqrt{2}", None),
        ("4 then 2^8", None),
        ("4 then 10!", None),
        ("none", None),
        ("", None),
    ],
)
def test_last_number(text, expected):
    assert last_number(text) == expected


def test_last_number_far_from_the_end():
    assert last_number("the answer is 7" + " and so it is" * 100_000) == "7"


def test_a_number_cut_by_the_first_look_is_whole():
    # The first look is at the last 2000 characters, which begin at "45".
    assert last_number("12345" + " w" * 999) == "12345"
    assert last_number("x" * 10 + " 12345" + " " * 1997) == "12345"


def test_long_text_takes_linear_time():
    start = time.process_time()
    for text in ("\\boxed{" * 200_000, "{" * 1_000_000 + "\\boxed{3}", "1 " * 500_000, "<answer>" * 100_000):
        last_boxed(text), last_number(text), last_tag(text, "answer"), last_line(text)
    assert time.process_time() - start < 5.0


def test_last_tag():
    assert last_tag("<answer>1</answer><answer> 2\n</answer>", "answer") == " 2\n"
    assert last_tag("<answer>1</answer><answer>2", "answer") is None
    assert last_tag("none", "answer") is None


def test_last_line_and_text_after():
    assert last_line("a\n b \n\n  ") == "b"
    assert last_line("  \n") is None
    assert text_after("1 + 1 = 2 = 2", "=") == " 2"
    assert text_after("no marker", "=") is None

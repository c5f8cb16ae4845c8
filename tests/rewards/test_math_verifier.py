from __future__ import annotations

import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmrl.rewards.math_verifier import math_verifier, warm_up

CORRECT = [
    # (completion, gold): numbers
    (r"\boxed{72}", "72"),
    ("The answer is 72.", "72"),
    ("48 + 24 = 72", "72"),
    ("**72**", "72"),
    ("#### 72", "72"),
    ("It costs $1,234.50.", "1234.5"),
    (r"\boxed{1{,}234}", "1234"),
    (r"\boxed{1,\!234}", "1,234"),
    ("10-5=5", "5"),
    ("the value 10 - 5", "5"),
    ("x = -5", "-5"),
    ("it is -5", "-5"),
    ("$-5$", "-5"),
    ("about -$5", "-5"),
    (r"\boxed{−5}", "-5"),  # noqa: RUF001
    ("25 cm^2", "25"),
    ("7.0", "7"),
    (r"\boxed{.5}", "0.5"),
    ("3 1/2", "3.5"),
    (r"\boxed{3\frac{1}{2}}", r"$\frac{7}{2}$"),
    (r"\boxed{3½}", "3.5"),
    (r"\frac{1}{2}", "0.5"),
    (r"\boxed{\dfrac12}", r"$\frac{1}{2}$"),
    (r"\boxed{-\frac{1}{2}}", r"\frac{-1}{2}"),
    (r"\boxed{0.333333}", r"\frac{1}{3}"),
    (r"\boxed{1.09 \times 10^{3}}", "1090"),
    ("1e3", "1000"),
    (r"2^{10} = 1024", "1024"),
    (r"\boxed{2+3=5}", "5"),
    # units, currency, percent
    ("5 cm", "5"),
    (r"\boxed{5\text{ cm}}", "5"),
    (r"\boxed{5}", r"$5 \mathrm{~cm}$"),
    (r"\boxed{5 centimeters}", "5 cm"),
    (r"\boxed{\$3040}", r"$\$ 3040$"),
    ("72 dollars", "$72"),
    (r"\boxed{45^{\circ}}", "45"),
    (r"\boxed{10\%}", "10"),
    # boxes
    (r"\boxed{1} then \boxed{2}", "2"),
    (r"\boxed{\boxed{2}}", "2"),
    (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{\sqrt{2}}{2}"),
    (r"\boxed {3}", "3"),
    (r"\boxed{3} and 4 more words", "3"),
    # equations, expressions
    (r"\boxed{x = 5}", "5"),
    (r"\boxed{5}", "$x=5$"),
    (r"\boxed{f^{-1}(x)=\frac{x}{4}}", r"$f^{-1}(x)=\frac{1}{4}x$"),
    (r"\boxed{A=\pi r^2=25\pi}", r"25\pi"),
    (r"\boxed{(x+1)^2}", "x^2+2x+1"),
    (r"\boxed{n-4(n)+10}", "$10-3 n$"),
    (r"\boxed{x^2 - 2 = 0}", "$2-x^{2}=0$"),
    (r"\boxed{\begin{pmatrix}1&2\\3&4\end{pmatrix}}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
    # several answers
    (r"\boxed{2, 3}", "3,2"),
    (r"\boxed{2\text{ and }3}", "2,3"),
    (r"\boxed{x=2\text{ or }x=3}", "2,3"),
    (r"\boxed{x=2, y=3}", "2,3"),
    (r"\boxed{2\pm\sqrt6}", r"$2+\sqrt{6},2-\sqrt{6}$"),
    (r"\boxed{\{1,2\}}", "2,1"),
    (r"\boxed{\left(\frac{4}{2}, 1\right)}", "$(2,1)$"),
    (r"\boxed{(-10,-9),(45,2)}", "$(45,2),(-10,-9)$"),
    (r"\boxed{3630, 522,720}", r"$3630 \mathrm{ft}^{2}, 522,720 \mathrm{in}^{2}$"),
    # intervals
    (r"\boxed{(-1,1]}", "(-1, 1]"),
    (r"\boxed{-1<x\le 1}", "$(-1,1]$"),
    (r"\boxed{[5,\infty)}", r"x \geq 5"),
    (r"\boxed{(2,\infty)\cup(-\infty,1)}", r"$(-\infty, 1) \cup (2, \infty)$"),
    # words
    (r"\boxed{\text{No solution}}", "no solution"),
    (r"\boxed{\text{(B)}}", "B"),
    (r"\boxed{b}", "(B)"),
    (r"\boxed{2:15 PM}", r"$2: 15$ PM"),
]

WRONG = [
    (r"\boxed{73}", "72"),
    ("", "3"),
    ("   \n", "3"),
    ("no number here", "3"),
    (r"\boxed{}", "3"),
    (r"\boxed{\text{}}", "3"),
    # hedging: more candidates than the gold has
    (r"\boxed{1, 2, 3, 4}", "3"),
    (r"\boxed{3, 4}", "3"),
    (r"\boxed{3 \text{ or } 4}", "3"),
    (r"\boxed{\text{3 or 4}}", "3"),
    (r"\boxed{3 \lor 4}", "3"),
    (r"\boxed{3|4}", "3"),
    (r"\boxed{3 \mid 4}", "3"),
    (r"\boxed{3;4}", "3"),
    (r"\boxed{3 4}", "3"),
    (r"\boxed{3 \quad 4}", "3"),
    (r"\boxed{3 \\ 4}", "3"),
    (r"\boxed{3 & 4}", "3"),
    (r"\boxed{\pm 3}", "3"),
    (r"\boxed{\{3,4\}}", "3"),
    (r"\boxed{[3,4]}", "3"),
    (r"\boxed{(3,3)}", "3"),
    (r"\boxed{x \in \{1,2,3\}}", "3"),
    (r"\boxed{3 maybe four}", "3"),
    (r"\boxed{3 \text{ to } 4}", "3"),
    (r"\boxed{3=3=4}", "3"),
    (r"\boxed{x>2}", "3"),
    (r"\boxed{2,3,3}", "2,3"),
    ("1,2,3,4", "3"),
    # the last answer counts; an open box is no answer
    (r"\boxed{3} no, \boxed{4}", "3"),
    (r"\boxed{3} no, \boxed{", "3"),
    (r"The answer is \boxed{3", "3"),
    (r"\boxed", "3"),
    # near misses
    (r"\boxed{1000001}", "1000000"),
    (r"\boxed{0.33}", r"\frac{1}{3}"),
    (r"\boxed{0.0000001}", "0.0000002"),
    (r"\boxed{31/2}", "3 1/2"),
    (r"\boxed{3 million}", "3"),
    (r"\boxed{3x}", "3"),
    (r"\boxed{3xyz}", "3"),
    (r"\boxed{3 x y}", "3"),
    (r"3\sqrt{2}", "3"),
    (r"3\sqrt{2}", "2"),
    ("10!", "10"),
    (r"\boxed{x^2-4=0}", "0"),
    (r"\boxed{y=5}", "x=5"),
    (r"\boxed{5 m}", "5 cm"),
    (r"\boxed{[1,2)}", "(1,2)"),
    (r"\boxed{(1,2)}", "(2,1)"),
    (r"\boxed{\{1,2\}}", "(1,2)"),
    (r"\boxed{\text{seat}}", "east"),
    (r"\boxed{on}", "no"),
    (r"\boxed{0/0}", "0"),
    (r"\boxed{\frac{3}{0}}", "3"),
    (r"\boxed{\infty}", "3"),
    (r"\boxed{\mathbb{R}}", "3"),
]

PATHOLOGICAL = {
    "power tower": r"\boxed{9**9**9}",
    "latex tower": r"\boxed{9^{9^{9^9}}}",
    "large exponent": r"\boxed{2^{99999999}}",
    "scientific": "1e999999999",
    "scientific latex": r"\boxed{1 \times 10^{9999999}}",
    "factorials": r"\boxed{10!!!!!!}",
    "large factorial": r"\boxed{9999999!}",
    "deep braces": r"\boxed{" + "{" * 100_000 + "}" * 100_000 + "}",
    "deep brackets": r"\boxed{" + "(" * 4_000 + ")" * 4_000 + "}",
    "open brackets": r"\boxed{" + "[(" * 2_000 + "}",
    "deep fractions": r"\boxed{" + r"\frac{1}{" * 200 + "2" + "}" * 200 + "}",
    "a megabyte of digits": "1" * 1_000_000,
    "a megabyte in a box": r"\boxed{" + "7" * 1_000_000 + "}",
    "a megabyte of boxes": r"\boxed{" * 150_000,
    "a megabyte of words": "word " * 200_000,
    "a megabyte of dollars": "$" * 1_000_000,
    "a megabyte of commas": r"\boxed{" + "1," * 500_000 + "}",
    "a megabyte of spaces": "5" + " " * 1_000_000 + "x",
    "thousands": "1" + ",111" * 250_000 + "1",
    "inequalities": r"\boxed{" + "<" * 4_000 + "}",
    "unicode": r"\boxed{🎉٣三\u202e\x00}",
    "control characters": "\x00\x01\\boxed{\x00}",
    "bad latex": r"\boxed{\frac{\sqrt}{\left(}",
    "code": r"\boxed{__import__('os').system('true')}",
}


@pytest.fixture(scope="module", autouse=True)
def imported():
    warm_up()


@pytest.mark.parametrize(("completion", "gold"), CORRECT)
def test_correct(completion, gold):
    result = math_verifier(completion, gold)
    assert (result.value, result.correct) == (1.0, True)


@pytest.mark.parametrize(("completion", "gold"), WRONG)
def test_wrong(completion, gold):
    result = math_verifier(completion, gold)
    assert (result.value, result.correct) == (0.0, False)


@pytest.mark.parametrize("completion", PATHOLOGICAL.values(), ids=PATHOLOGICAL)
@pytest.mark.parametrize("gold", ["3", r"\frac{\sqrt{3}}{2}", "(1,2)"])
def test_pathological_is_wrong_and_quick(completion, gold):
    start = time.process_time()
    assert math_verifier(completion, gold).correct is False
    assert time.process_time() - start < 3.0


@pytest.mark.parametrize("gold", ["", "  ", "$", r"\frac{1}{", r"$\sqrt{$"])
def test_unreadable_gold_raises_whatever_the_completion(gold):
    for completion in (r"\boxed{3}", rf"\boxed{{{gold}}}"):
        with pytest.raises(ValueError, match=r"cannot be read|is no answer"):
            math_verifier(completion, gold)


def test_gold_may_be_a_number():
    assert math_verifier("145", 145.0).correct
    assert math_verifier("145", 145).correct
    assert not math_verifier("146", 145.0).correct


def test_extract_boxed_wants_a_box():
    assert not math_verifier("The answer is 3", "3", extract="boxed").correct
    assert math_verifier(r"\boxed{3}, not 4", "3", extract="boxed").correct


def test_extract_last_number_looks_past_boxes():
    assert math_verifier(r"\boxed{3}, not 4", "4", extract="last_number").correct
    assert not math_verifier(r"\boxed{3}, not 4", "3", extract="last_number").correct


@pytest.mark.parametrize(
    ("completion", "correct"),
    [
        ("<answer>3</answer>", True),
        ("<answer> $3$ </answer>", True),
        (r"<answer>it is \boxed{3}</answer>", True),
        ("<answer>4</answer> <answer>3</answer>", True),
        ("<answer>3</answer> <answer>4</answer>", False),
        ("<answer>3", False),
        ("<answer>4</answer> <answer>3", False),
        ("3", False),
        (r"\boxed{3}", False),
        ("<answer>2, 3</answer>", False),
        ("<answer></answer>", False),
    ],
)
def test_extract_tag(completion, correct):
    assert math_verifier(completion, "3", extract="tag").correct is correct


def test_tag_name_is_a_setting():
    assert math_verifier("<final>3</final>", "3", extract="tag", tag="final").correct


@pytest.mark.parametrize(
    ("completion", "gold", "unit", "ratio", "either"),
    [
        ("50%", "50", True, False, True),
        ("50%", "0.5", False, True, True),
        ("0.5", r"50\%", False, True, True),
        ("50%", "50%", True, True, True),
        ("50%", "5", False, False, False),
        (r"\boxed{50\text{ percent}}", "1/2", False, True, True),
    ],
)
def test_percent_policies(completion, gold, unit, ratio, either):
    verdicts = [math_verifier(completion, gold, percent=policy).correct for policy in ("unit", "ratio", "either")]
    assert verdicts == [unit, ratio, either]


NUMBERS = st.integers(-(10**12), 10**12)


@given(NUMBERS, NUMBERS)
@settings(max_examples=200)
def test_integers_are_equal_exactly_when_they_are(first, second):
    assert math_verifier(rf"\boxed{{{first}}}", str(second)).correct is (first == second)
    assert math_verifier(f"The answer is {first:,}.", str(first)).correct
    assert not math_verifier(f"The answer is {first + 1:,}.", str(first)).correct


@given(NUMBERS, st.integers(1, 10**6), st.integers(1, 1000))
@settings(max_examples=100)
def test_fractions_are_equal_in_any_terms(top, bottom, factor):
    scaled = rf"\boxed{{\frac{{{top * factor}}}{{{bottom * factor}}}}}"
    assert math_verifier(scaled, f"{top}/{bottom}").correct
    other = top + max(1, abs(top) // 100)  # numbers within a millionth of each other are taken as equal
    assert not math_verifier(scaled, f"{other}/{bottom}").correct


@given(st.text(max_size=60))
@settings(max_examples=300)
def test_any_text_gets_a_verdict(text):
    assume("123456789" not in text)
    for completion in (text, rf"\boxed{{{text}}}", f"<answer>{text}</answer>"):
        for extract in ("boxed_or_last", "tag"):
            assert math_verifier(completion, "123456789", extract=extract).correct is False

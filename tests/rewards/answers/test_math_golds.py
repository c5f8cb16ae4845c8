"""What a gold answer is, and which golds are understood."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from llmrl.rewards.math_verifier import gold_answers, is_understood, math_verifier


@pytest.mark.parametrize(
    "gold",
    [None, math.nan, math.inf, True, {"value": 5}, [], [5, None], "", "  ", "$", r"\frac{1}{", b"5", [[]]],
)
def test_what_is_no_gold_is_a_fault_whatever_the_completion(gold):
    for completion in (r"\boxed{5}", r"\boxed{None}", r"\boxed{nan}", "", rf"\boxed{{{gold}}}"):
        with pytest.raises(ValueError, match=r"gold answer|is no answer"):
            math_verifier(completion, gold)


@pytest.mark.parametrize(
    "gold",
    [
        r"\\left(\\frac{2}{7}, 3\\right)",
        r"\\frac{1}{2}",
        r"2\\pi",
        r"\\boxed{5}",
        r"3\\text{ cm}",
        r"$\\sqrt{2}$",
        r"\\(5\\)",
    ],
)
def test_doubled_backslashes_are_a_fault(gold):
    with pytest.raises(ValueError, match="escaped twice"):
        math_verifier(r"\boxed{5}", gold)


@pytest.mark.parametrize(
    "gold",
    [
        r"\begin{pmatrix}1\\2\end{pmatrix}",
        r"\begin{pmatrix} a \\ b \end{pmatrix}",
        r"\begin{pmatrix}1\\\frac12\end{pmatrix}",
    ],
)
def test_the_rows_of_a_matrix_are_no_doubled_backslashes(gold):
    assert math_verifier(rf"\boxed{{{gold}}}", gold).correct


@pytest.mark.parametrize(
    ("gold", "completion", "right"),
    [
        (["5", "five"], r"\boxed{5}", True),
        (["5", "five"], r"\boxed{five}", True),
        (["5", "five"], r"\boxed{6}", False),
        (["5", "five"], r"\boxed{5, five}", False),
        ([1, 2.5], r"\boxed{\frac52}", True),
        (("a", "b"), r"\boxed{b}", True),
        (np.array([3, 4]), r"\boxed{4}", True),
        (np.int64(3), r"\boxed{3}", True),
        (np.float32(0.5), r"\boxed{\frac12}", True),
        (145.0, "145", True),
        (1e22, r"\boxed{10^{22}}", True),
        (1e-7, r"\boxed{10^{-7}}", True),
        (-0.25, r"\boxed{-\frac14}", True),
        (7, r"\boxed{7.0}", True),
        (7, r"\boxed{8}", False),
        (r"\boxed{3} and \boxed{8}", r"\boxed{8}", False),
        (r"\boxed{3} and \boxed{8}", r"\boxed{3, 8}", True),
        (r"\boxed{3} and \boxed{8}", r"\boxed{8}, \boxed{3}", True),
        (r"Thus \boxed{7}.", r"\boxed{7}", True),
    ],
)
def test_golds_of_every_kind(gold, completion, right):
    assert math_verifier(completion, gold).correct is right


def test_numbers_of_other_libraries_are_no_golds():
    for gold in (Fraction(1, 2), 1 + 2j):
        with pytest.raises(ValueError, match="is no answer"):
            gold_answers(gold)


@pytest.mark.parametrize(
    "gold",
    [
        "5",
        r"\frac{\sqrt{3}}{2}",
        "x^2+1",
        "(1,2)",
        r"\{1,2\}",
        "x>3",
        "no solution",
        "C",
        "y=2x",
        r"3\text{ cm}",
        "10:30",
    ],
)
def test_golds_that_are_understood(gold):
    assert is_understood(gold)


@pytest.mark.parametrize("gold", [r"\oint_C F\cdot dr \to \Box", r"3 +* \unknown 4", "1 2 3 @ # 4"])
def test_golds_that_are_not_understood_still_equal_themselves(gold):
    assert not is_understood(gold)
    assert math_verifier(rf"\boxed{{{gold}}}", gold).correct
    assert not math_verifier(r"\boxed{5}", gold).correct

"""What a scorer may evaluate of a model's answer."""

from __future__ import annotations

import builtins

import pytest
import reasoning_gym.games.countdown as countdown
import sympy
from sympy.parsing import sympy_parser

from llmrl.rewards.guarded_eval import guarded_eval, guarding


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[[0, 1], [1, 2]]", [[0, 1], [1, 2]]),
        ("['a', 'b'] ", ["a", "b"]),
        ("2 + 3*4 - 2**10", -1010),
        ("{'x': (1, None, True)}", {"x": (1, None, True)}),
    ],
)
def test_values_and_sums_are_computed(text, value):
    assert guarded_eval(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "open('x', 'w')",
        "(1).__class__",
        "[x for x in (1,)]",
        "lambda: 1",
        "print",
        "[1][0]",
        "f'{1}'",
    ],
)
def test_other_code_is_refused(text):
    with pytest.raises(ValueError, match="is no value and no formula"):
        guarded_eval(text)


@pytest.mark.parametrize("text", ["9**9**9", "2**100000", "((9**99)**99)**99", "2**(5*5000)"])
def test_powers_that_are_too_large_are_refused(text):
    with pytest.raises(ValueError, match="is too large"):
        guarded_eval(text)


def test_sympy_reads_formulas_as_before_and_nothing_else():
    x = sympy.Symbol("x")
    with guarding("reasoning_gym"):
        assert (
            sympy_parser.parse_expr("3*x**2/2 + sin(x) + sqrt(x) + 5!")
            == 3 * x**2 / 2 + sympy.sin(x) + sympy.sqrt(x) + 120
        )
        for text in ("__import__('os')", "sympify('__import__(1)')", "x.__class__", "lambdify(x, '1')", "open('y')"):
            with pytest.raises(ValueError, match="is no value and no formula"):
                sympy_parser.parse_expr(text)


def test_the_guard_ends_with_the_scoring():
    assert "reasoning_gym" in countdown.__name__
    with pytest.raises(ZeroDivisionError), guarding("reasoning_gym"):
        assert vars(countdown)["eval"] is vars(sympy_parser)["eval"] is guarded_eval
        raise ZeroDivisionError
    assert "eval" not in vars(countdown) and "eval" not in vars(sympy_parser)
    assert builtins.eval is not guarded_eval

"""Which answers are equal, kind by kind."""

from __future__ import annotations

import answers_to_compare
import numbers_to_compare
import pytest

from llmrl.rewards.math_verifier import math_verifier

KINDS = numbers_to_compare.KINDS | answers_to_compare.KINDS
CASES = [(kind, *case) for kind, cases in KINDS.items() for case in cases]


@pytest.mark.parametrize(("kind", "gold", "answer", "right"), CASES)
def test_equality(kind: str, gold: str, answer: str, right: bool):
    assert math_verifier(rf"So it is \boxed{{{answer}}}.", gold).correct is right

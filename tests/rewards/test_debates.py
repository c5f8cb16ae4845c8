from __future__ import annotations

import asyncio

import pytest

from llmrl.rewards.debates import wins_debate
from llmrl.types import Failure
from tests.support.plain_trees import text

SIDES = {"first": "A", "second": "B"}


def debate(*verdicts: str):
    second = text("second", *(text("verdict", said=one) for one in verdicts))
    return text("first", second), second


@pytest.mark.parametrize(
    ("verdicts", "value"),
    [(["[[A]]"], 1.0), (["[[B]]"], -1.0), (["[[A]]", "so [[B]]"], 0.0), (["[[A]]", "?"], 0.5), (["A"], 1.0)],
)
def test_a_debater_wins_what_the_other_one_loses(verdicts, value):
    first, second = debate(*verdicts)
    assert asyncio.run(wins_debate(first, sides=SIDES)).value == value
    assert asyncio.run(wins_debate(second, sides=SIDES)).value == -value


def test_undecided_verdicts_are_counted():
    assert asyncio.run(wins_debate(debate("?", "[[A]]")[0], sides=SIDES)).metrics == {"undecided": 0.5}


def test_a_statement_that_nobody_judged_fails_and_one_of_no_side_is_refused():
    assert isinstance(asyncio.run(wins_debate(debate()[0], sides=SIDES)), Failure)
    first, second = debate("[[A]]")
    second.children[0].failure = failure = Failure("moves.verdict", "invalid", "too long")
    assert asyncio.run(wins_debate(first, sides=SIDES)) is failure
    with pytest.raises(ValueError, match="no side for the move first"):
        asyncio.run(wins_debate(first, sides={"second": "B"}))

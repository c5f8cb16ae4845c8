"""Values that a role wrote on the beginnings of answers, as a field of the batch."""

from __future__ import annotations

import math

import pytest
import torch

from llmrl.data.packing import pack
from llmrl.errors import RunStopped
from llmrl.providers.appraisals import appraised_values
from llmrl.types import ACTOR, Failure, Group, Prompt, Score, Trajectory, Turn

PROMPT = Prompt("p", (1, 2), "?", {})
NAN = math.nan


def answer(tokens: int, *said: tuple[int, float | None]) -> Trajectory:
    """An answer with appraisals of its prefixes; None for one without a readable number."""
    made = Trajectory(PROMPT, [Turn(ACTOR, [5] * tokens)], "stop")
    for prefix, value in said:
        metrics = {} if value is None else {"value": value}
        one = Trajectory(PROMPT, [Turn("appraiser", [6])], "stop", author="appraiser", parent=made, prefix=prefix)
        one.scores["appraisal"] = Score(0.0, metrics=metrics)
        made.children.append(one)
    return made


def values(*answers: Trajectory, **settings) -> torch.Tensor:
    group = Group(PROMPT, list(answers))
    return appraised_values(pack([group], ACTOR), [group], **settings)


def equal(found: torch.Tensor, expected: list[list[float]]) -> bool:
    return torch.allclose(found, torch.tensor(expected), equal_nan=True)


def test_a_value_stands_at_the_first_token_behind_its_prefix():
    found = values(answer(4, (0, 0.5), (0, 0.25), (2, 1.0)), answer(2, (0, 0.0), (1, 0.75)))
    assert equal(found, [[NAN, NAN, 0.375, NAN, 1.0, NAN], [NAN, NAN, 0.0, 0.75, NAN, NAN]])


def test_an_unreadable_number_makes_no_state_and_the_question_has_the_value_of_its_other_answers():
    found = values(answer(3, (0, None), (1, None), (2, 0.5)), answer(1, (0, 0.25)), answer(1, (0, 0.75)))
    assert equal(found, [[NAN, NAN, 0.5, NAN, 0.5], [NAN, NAN, 0.25, NAN, NAN], [NAN, NAN, 0.75, NAN, NAN]])
    assert equal(values(answer(2, (0, None)), otherwise=0.125), [[NAN, NAN, 0.125, NAN]])


def test_a_failed_appraisal_does_not_count():
    one = answer(2, (0, 0.5), (0, 0.0))
    one.children[1].failure = Failure("appraisal", "invalid", "")
    assert equal(values(one), [[NAN, NAN, 0.5, NAN]])


def test_without_any_appraisal_the_run_stops_with_the_reason():
    with pytest.raises(RunStopped, match="no text that follows an answer has the reward 'judgement'"):
        values(answer(2, (0, 0.5)), reward="judgement")

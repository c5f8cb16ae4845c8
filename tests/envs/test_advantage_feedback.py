"""A game behind a critic: refused proposals, the best of them, and what the other world says."""

from __future__ import annotations

import asyncio

import pytest

from llmrl.envs.advantage_feedback import advantage_feedback
from llmrl.errors import RecipeError
from llmrl.types import Prompt

PROMPT = Prompt("p", (1,), "?", {})
HISTORIES: list[str] = []


def prefers_high(history: str, action: str) -> float:
    """An advantage of -1 to 1 of guesses from 0 to 8; it remembers what it has read."""
    HISTORIES.append(history)
    return int(action) / 4 - 1


def made(**settings):
    given = {"world": {"guess_number": {"low": 0, "high": 8, "brief": True}}, "critic": f"{__name__}:prefers_high"}
    return advantage_feedback(PROMPT, {}, 0, {}, **given | settings)


def said(world, *actions: str):
    async def play():
        opening = await world.reset(3)
        return opening, [await world.act(action) for action in actions]

    return asyncio.run(play())


def test_an_action_of_a_low_advantage_is_planned_again():
    HISTORIES.clear()
    world = made(tell="{action}: {advantage}")
    opening, (first, second, third) = said(world, "1", "6", "2")
    assert (first.text, first.reward, first.valid) == ("1: -0.75", None, True)
    assert first.solved == opening.solved is False and first.state != opening.state
    assert second.reward in (-1.0, 0.0) and second.metrics["replanned"] == 1.0  # 6 was taken
    assert third.text == "2: -0.5" and third.metrics["replanned"] == 2.0
    assert HISTORIES[0] == HISTORIES[1] == f"{opening.text}\n"
    assert HISTORIES[2] == f"{opening.text}\n6\n{second.text}\n"


def test_after_the_last_refusal_the_best_proposal_is_taken():
    plain = made(threshold=-9.0)
    _, answers = said(plain, "3")
    _, refused = said(made(most=2), "1", "3", "0")
    assert [one.reward is None for one in refused] == [True, True, False]
    assert (refused[2].text, refused[2].reward) == (answers[0].text, answers[0].reward)  # 3 was the best of the three


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"world": "gues_number"}, "env.advantage_feedback.world: .*did you mean 'guess_number'"),
        ({"critic": f"{__name__}:prefers_hig"}, "did you mean 'prefers_high'"),
    ],
)
def test_wrong_names_are_faults(settings, words):
    with pytest.raises(RecipeError, match=words):
        made(**settings)


def test_a_world_that_reads_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="no data named 'encode'; valid: authors, prompt, row, seed"):
        made(world="python_tool")

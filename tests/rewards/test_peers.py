from __future__ import annotations

import asyncio

import pytest

from llmrl.errors import RecipeError
from llmrl.rewards.peers import peer_scores
from llmrl.rewards.reward import Reward
from llmrl.types import Failure, Score
from tests.support.plain_trees import text


def draft(*scores: tuple[str, str]):
    return text("draft", *(text("opinion", said=said, by=by) for by, said in scores), by="one")


def test_the_mean_of_what_peers_say_of_a_draft_is_a_share_of_the_range():
    drafted = draft(("two", "[[7]]"), ("three", "terse, but [[10]]"), ("two", "none"), ("two", "[[11]]"))
    found = asyncio.run(peer_scores(drafted))
    assert found.value == pytest.approx(0.85)
    assert found.metrics == {"parse_failures": 0.5}
    assert asyncio.run(peer_scores(draft(("two", "3")), low=1, high=5)).value == 0.5


def test_nobody_scores_a_draft_of_his_own():
    assert asyncio.run(peer_scores(draft(("one", "[[10]]"), ("two", "[[4]]")))).value == pytest.approx(0.4)


def test_without_a_readable_score_the_reward_fails():
    assert isinstance(asyncio.run(peer_scores(draft(("two", "good")))), Failure)
    assert isinstance(asyncio.run(peer_scores(draft(("two", "[[4]]")), opinions=["other"])), Failure)


def test_numbers_in_thoughts_are_no_scores():
    found = asyncio.run(peer_scores(draft(("two", "[[4]]<think>or [[9]]</think>[[6]]"), ("three", "<think>[[1]]"))))
    assert isinstance(found, Score)
    assert (found.value, found.metrics) == (pytest.approx(0.6), {"parse_failures": 0.5})


def test_an_empty_range_is_refused():
    with pytest.raises(RecipeError, match="low 5, high 5: expected low < high"):
        Reward.from_spec("peer_scores", {"low": 5, "high": 5})

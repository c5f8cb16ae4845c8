from __future__ import annotations

import time

import pytest

from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

NEAR = "hostile_rewards:near"


@pytest.fixture(scope="module")
def workers():
    with Workers(2) as pool:
        yield pool


def group(*texts: str, prompt: str = "", **row: str) -> Group:
    asked = Prompt("p0", (1,), prompt, row)
    return Group(asked, [Trajectory(asked, [Turn(ACTOR, [3])], "stop", text) for text in texts])


def answers(workers: Workers, specs: dict, *groups: Group) -> list[list[int | None]] | None:
    return Rewards.from_specs(specs, workers=workers).answers(groups)


def test_answers_are_the_same_where_the_verifier_says_so_in_either_order(workers):
    # 2 <= 2.5 < 3, asked as near(2, 2.5) alone; 3.6 is near neither 2.5 nor the other way round
    found = answers(workers, {NEAR: None}, group("2.5", "2", "2.0", "3.6", "none", "2.5"), group("7", "7", "nothing"))
    assert found == [[0, 0, 0, 1, None, 0], [0, 0, None]]
    assert answers(workers, {NEAR: None}, group("1", "3", "1.5", "3", "5")) == [[0, 1, 0, 1, 2]]


def test_what_is_read_depends_on_the_prompt(workers):
    assert answers(workers, {NEAR: None}, group("think 1", "1", prompt="think ")) == [[0, 0]]


def test_a_comparison_that_hangs_says_that_two_answers_differ(workers):
    started = time.monotonic()
    spec = {NEAR: {"hang_on": "9e9", "deadline_seconds": 0.3}}
    # 9e9 fails against 1, 3 and 5 and is then compared with no other
    assert answers(workers, spec, group("1", "9e9", "3", "5", "1.5", "7")) == [[0, 1, 2, 3, 0, 4]]
    assert time.monotonic() - started < 20


def test_a_completion_that_cannot_be_read_has_no_answer(workers):
    spec = {NEAR: {"hang_on": "it", "deadline_seconds": 0.3}}
    assert answers(workers, spec, group("read it", "1", "1")) == [[None, 0, 0]]


def test_a_group_is_read_by_the_reward_of_its_row(workers):
    specs = {"hostile_rewards:is_yes": None, NEAR: {"rows": {"task": "near"}}}
    assert answers(workers, specs, group("1", "1.5", task="near")) == [[0, 0]]


def test_without_a_mark_nothing_is_said(workers):
    assert answers(workers, {"hostile_rewards:is_yes": None}, group("1")) is None

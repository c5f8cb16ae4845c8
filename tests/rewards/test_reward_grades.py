"""The grades that a reward function may give, and the mark that says how many grades it gives."""

from __future__ import annotations

import asyncio

import pytest

from llmrl.marks import gives_grades
from llmrl.rewards.base import Rewards
from llmrl.rewards.reward import Reward
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, Group, Prompt, Score, Trajectory, Turn

OWN = """
from llmrl.marks import gives_grades
from llmrl.types import Score

@gives_grades(3)
def marked(completion, *, highest: int = 9):
    return Score(0.5, outcome=completion, grade=min(int(completion), highest))

def unmarked(completion):
    return Score(0.5, grade={"none": None, "half": 0.5}[completion] if completion.isalpha() else int(completion))
"""


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "graded_rewards.py").write_text(OWN)
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(folder)
    with Workers(1) as pool:
        yield pool
    patch.undo()


def scored(workers: Workers, name: str, *texts: str) -> list[Trajectory]:
    prompt = Prompt("p0", (1,), "", {})
    group = Group(prompt, [Trajectory(prompt, [Turn(ACTOR, [3])], "stop", text) for text in texts])
    rewards = Rewards.from_specs({f"graded_rewards:{name}": {"retries": 0}}, workers=workers)
    asyncio.run(rewards.score(group))
    return group.trajectories


def messages(trajectories: list[Trajectory]) -> list[str | None]:
    return [one.failure.message if one.failure else None for one in trajectories]


def test_outcomes_and_grades_come_back_from_the_workers(workers):
    first, last = scored(workers, "marked", "0", "2")
    assert (first.scores, first.grade) == ({"graded_rewards:marked": Score(0.5, outcome="0", grade=0)}, 0)
    assert last.grade == 2


def test_a_grade_outside_the_marks_is_a_failure_and_no_reward(workers):
    assert messages(scored(workers, "marked", "-1", "2", "3")) == [
        "returned the grade -1, expected an int of at least 0 and below 3",
        None,
        "returned the grade 3, expected an int of at least 0 and below 3",
    ]


def test_without_a_mark_any_natural_number_is_a_grade(workers):
    trajectories = scored(workers, "unmarked", "none", "7", "-1", "half")
    assert [one.grade for one in trajectories] == [None, 7, None, None]
    assert messages(trajectories)[2:] == [
        "returned the grade -1, expected an int of at least 0",
        "returned the grade 0.5, expected an int of at least 0",
    ]


def test_a_reward_says_how_many_grades_it_gives(workers):
    grades = [Reward.from_spec(name, {}).grades for name in ("graded_rewards:marked", "graded_rewards:unmarked")]
    assert grades == [3, None] and Reward.from_spec("math_verifier", {}).grades is None
    with pytest.raises(ValueError, match="count: 1 is not valid, expected at least 2 grades"):
        gives_grades(1)

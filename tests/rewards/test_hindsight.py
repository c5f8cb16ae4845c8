from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass, field

import pytest

from llmrl.errors import RecipeError
from llmrl.rewards.base import Rewards
from llmrl.rewards.hindsight import hindsight_gap
from llmrl.rewards.respondents import Question, roles_asked_by
from llmrl.rewards.verdicts import Reply
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn


@pytest.fixture(scope="module")
def workers():
    with Workers(1) as pool:
        yield pool


def test_the_gap_is_satisfaction_that_does_not_last():
    # at first sight the second answer is best; in hindsight the third, by 4
    found = hindsight_gap([5.0, 9.0, 6.0], [5.0, 3.0, 7.0])
    assert found["gap"] == pytest.approx((0 + 6 - 1) / 3)
    assert found["regret"] == 4
    assert found["agreement"] == pytest.approx(1 / 3)  # of 3 > 1, 1 > 2, 3 > 2, the first alone
    assert hindsight_gap([1.0, 1.0], [2.0, 4.0]) == {"gap": -2.0, "regret": 1.0, "agreement": 0.5}
    alone = hindsight_gap([1.0], [1.0])
    assert (alone["gap"], alone["regret"]) == (0, 0)
    assert math.isnan(alone["agreement"])


@dataclass
class Scripted:
    rule: object
    asked: list[str] = field(default_factory=list)
    name: str = "role"

    async def reply(self, question: Question) -> Reply:
        self.asked.append(question.text)
        return Reply(self.rule(question.text))


def group(*texts: str) -> Group:
    prompt = Prompt("p", (1,), "Which phone?", {})
    return Group(prompt, [Trajectory(prompt, [Turn(ACTOR, [5])], "stop", text) for text in texts])


SPECS = {
    "immediate": {"judge_pointwise": {"role": "rater", "rubric": "{prompt} {completion} score?"}},
    "hindsight": {
        "judge_pointwise": {
            "role": "rater",
            "rubric": "{prompt} {completion} then {later} score?",
            "notes": {"later": {"rubric": "{completion} what happens?", "role": "world"}},
        }
    },
}


def test_a_flattering_answer_is_scored_by_what_follows(workers):
    """The rater likes praise and, once it is known, what works; the world knows what works."""
    world = Scripted(lambda text: "broke" if text.startswith("Best ever") else "worked")
    rater = Scripted(
        lambda text: f"[[{9 if 'worked' in text else 2}]]" if "then" in text else f"[[{8 if 'Best' in text else 6}]]"
    )
    one = group("Best ever: X", "Y, with flaws", "mute")
    authors = {"rater": rater, "world": world}
    asyncio.run(Rewards.from_specs({"hindsight": SPECS}, workers=workers, authors=authors).score(one))
    assert [answer.reward for answer in one.trajectories] == [2, 9, 9]
    metrics = dict(one.trajectories[0].scores["hindsight"].metrics)
    assert metrics["immediate"] == 8
    assert metrics["regret"] == 7
    assert metrics["agreement"] == 0
    assert metrics["gap"] == pytest.approx((8 - 2 + 6 - 9 + 6 - 9) / 3)
    assert all(not re.search("then", text) for text in world.asked)  # the simulator never sees the rater's question


def test_a_rating_that_fails_fails_alone(workers):
    rater = Scripted(lambda text: "..." if "hush" in text and "then" in text else "[[5]]")
    one = group("fine", "hush")
    authors = {"rater": rater, "world": Scripted(lambda text: "ok")}
    asyncio.run(Rewards.from_specs({"hindsight": SPECS}, workers=workers, authors=authors).score(one))
    assert one.trajectories[0].reward == 5
    failure = one.trajectories[1].failure
    assert failure
    assert (failure.source, failure.kind) == ("hindsight", "invalid")


def test_the_roles_of_both_raters_are_asked_and_a_rater_is_a_judge(workers):
    [reward] = Rewards.from_specs({"hindsight": SPECS}, workers=workers).rewards
    assert roles_asked_by(reward.piece) == {"rater", "world"}
    with pytest.raises(RecipeError, match="no rater named 'judge_pairwise'; did you mean 'judge_pointwise'"):
        Rewards.from_specs({"hindsight": SPECS | {"immediate": {"judge_pairwise": {}}}}, workers=workers)

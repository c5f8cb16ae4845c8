from __future__ import annotations

import asyncio
import json
import math

import pytest

from llmrl.errors import RecipeError
from llmrl.rewards.base import Rewards
from llmrl.rewards.welfare import best_actions, equilibria, payoffs_in, social_welfare, welfare
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, Group, Prompt, Score, Trajectory, Turn


@pytest.fixture(scope="module")
def workers():
    with Workers(1) as pool:
        yield pool


# asking back serves both of a vague question's sides best; each is better off alone with an answer at once
GAME = {
    "vague": {"answer": (1.0, 4.0), "ask": (4.0, 3.0)},
    "clear": {"answer": (5.0, 5.0), "ask": (2.0, 1.0)},
}
DILEMMA = {"silent": {"silent": (2.0, 2.0), "tell": (0.0, 3.0)}, "tell": {"silent": (3.0, 0.0), "tell": (1.0, 1.0)}}


def test_welfare_is_a_weighted_geometric_mean():
    assert welfare(4.0, 9.0) == 6
    assert welfare(8.0, 1.0, user_share=1 / 3) == pytest.approx(2)
    assert welfare(9.0, -1.0) == 0
    assert welfare(5.0, 5.0) > welfare(9.0, 1.0)


def test_the_best_action_is_in_the_cell_of_highest_welfare():
    assert best_actions(GAME) == {"answer"}  # sqrt(25)
    assert best_actions(GAME, situation="vague") == {"ask"}  # sqrt(12) against sqrt(4)
    assert best_actions(GAME, situation="vague", user_share=0.0) == {"answer"}  # the model's payoff alone
    assert best_actions(GAME, situation="unheard of") == {"answer"}


def test_the_equilibrium_of_the_prisoners_dilemma_is_not_its_best_cell():
    assert equilibria(DILEMMA) == {("tell", "tell")}
    assert best_actions(DILEMMA) == {"silent"}
    assert equilibria(GAME) == {("clear", "answer")}
    assert (
        equilibria({"heads": {"heads": (1, 0), "tails": (0, 1)}, "tails": {"heads": (0, 1), "tails": (1, 0)}}) == set()
    )


@pytest.mark.parametrize(
    "text", ["", "<payoffs>{}</payoffs>", "<payoffs>[1]</payoffs>", '<payoffs>{"a": {"b": [1]}}</payoffs>',
             '<payoffs>{"a": {"b": [1, NaN]}}</payoffs>', '<payoffs>{"a": {}}</payoffs>', "<payoffs>{" * 9]
)  # fmt: skip
def test_what_is_no_game_is_none(text):
    assert payoffs_in(text) is None


def answer(text: str, tokens: int, **scores: float) -> Trajectory:
    prompt = Prompt("p", (1,), "q", {})
    made = Trajectory(prompt, [Turn(ACTOR, [5] * tokens)], "stop", text)
    made.scores = {name: Score(value) for name, value in scores.items()}
    return made


def test_an_answer_is_paid_for_both_sides():
    text = f"<payoffs>{json.dumps(GAME)}</payoffs><situation>vague</situation><action>ask</action> Which year?"
    one, other = answer(text, 10, quality=4.0, cost=1.0), answer("1999", 1, quality=4.0, cost=9.0)
    settings = {
        "user": {"quality": 1.0},
        "model": {"quality": 1.0, "cost": 0.5},
        "token_cost": 0.1,
        "rationality": 0.25,
    }
    first, second = social_welfare(Group(one.prompt, [one, other]), **settings)
    assert first.value == pytest.approx(math.sqrt(4 * (4 + 0.5 - 1)) + 0.25)
    assert dict(first.metrics) == {"user": 4, "model": 3.5, "rational": 1, "equilibrium": 0, "writes_payoffs": 1}
    assert second.value == pytest.approx(math.sqrt(4 * (4 + 4.5 - 0.1)))
    assert dict(second.metrics) == {"user": 4, "model": pytest.approx(8.4), "rational": 0, "writes_payoffs": 0}


async def half(completion):
    return 0.25


def test_it_reads_the_other_rewards_of_the_recipe(workers):
    specs = {
        f"{__name__}:half": {"weight": 0.0},
        "social_welfare": {"user": {f"{__name__}:half": 4.0}, "model": {f"{__name__}:half": 1}},
    }
    group = Group(Prompt("p", (1,), "q", {}), [answer("a", 3)])
    asyncio.run(Rewards.from_specs(specs, workers=workers).score(group))
    assert group.trajectories[0].reward == pytest.approx(math.sqrt(1.0 * 0.25))


def test_a_reward_that_the_recipe_lacks_is_named(workers):
    specs = {f"{__name__}:half": None, "social_welfare": {"user": {f"{__name__}:hall": 1}, "model": {}}}
    with pytest.raises(RecipeError, match=r"social_welfare.user: no reward named '.*:hall'; did you mean '.*:half'"):
        Rewards.from_specs(specs, workers=workers)

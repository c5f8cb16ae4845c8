"""The reward of a cheap episode, and the numbers of earlier steps that it is measured by."""

from __future__ import annotations

import asyncio
import json

import pytest

from llmrl.errors import RecipeError
from llmrl.rewards.base import Rewards
from llmrl.rewards.costs import cheapness
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

PROMPT = Prompt("p", (1,), "q", {"question": "q", "answer": "2"})


def episode(tokens: int, text: str = "", **measured: float) -> Trajectory:
    turn = Turn(ACTOR, [5] * tokens, text=text)
    return Trajectory(PROMPT, [turn], "stop", text=text, measured=measured)


def cost(trajectory: Trajectory, remembered: list[float], **settings) -> float:
    return asyncio.run(cheapness(trajectory, remembered, **settings)).value


def test_the_place_among_earlier_costs():
    """Of costs 0, 1 ... 100 with roots, the 5th percentile is sqrt(5) and the 95th sqrt(95)."""
    earlier = [float(n) for n in range(101)]
    low, high = 5**0.5, 95**0.5
    assert cost(episode(49), earlier) == pytest.approx(1 - (7 - low) / (high - low))
    assert (cost(episode(3), earlier), cost(episode(99), earlier)) == (1.0, 0.0)
    assert cost(episode(0, paid=25.0), earlier, of="paid", power=1.0) == pytest.approx(1 - 20 / 90)
    # between two costs the percentile is linear: 10 + .25 10 and 10 + .75 10
    assert cost(episode(15), [20.0, 10.0], power=1.0, low=25, high=75) == pytest.approx(0.5)
    assert cost(episode(16), [20.0, 10.0], power=1.0, low=25, high=75) == pytest.approx(0.3)


@pytest.mark.parametrize("earlier", [[], [7.0, 7.0, 7.0]])
def test_without_a_range_nothing_is_cheap_or_dear(earlier):
    assert cost(episode(7), earlier) == 0.5


def test_costs_that_are_none():
    with pytest.raises(ValueError, match="did you mean 'paid'"):
        cost(episode(1, paid=1.0), [], of="payd")
    with pytest.raises(ValueError, match="paid is -1, expected a cost of at least 0"):
        cost(episode(1, paid=-1.0), [], of="paid")


async def right(completion: str, answer: str) -> bool:
    return completion == answer


SPECS = {
    f"{__name__}:right": {"weight": 0.6},
    "cheapness": {"weight": 0.4, "power": 1.0, "low": 0, "high": 100, "window": 3, "only_if": [f"{__name__}:right"]},
}


def test_a_window_over_steps_that_a_checkpoint_keeps():
    """Cheap alone earns nothing; the window holds the last 3 of all episodes of earlier steps, and is restored."""
    workers = Workers(1)  # which none of these functions needs
    rewards = Rewards.from_specs(SPECS, workers=workers)

    def step(rewards: Rewards) -> list[float]:
        group = Group(PROMPT, [episode(2, "2"), episode(8, "3"), episode(6, "2"), episode(4, "2")])
        asyncio.run(rewards.score(group))
        rewards.remember([group])
        return [one.components["cheapness"] for one in group.trajectories]

    assert step(rewards) == [0.2, 0.0, 0.2, 0.2]  # nothing is known of costs: .4 times a half
    state = json.loads(json.dumps(rewards.state_dict()))
    assert state["remembered"] == {"cheapness": [8.0, 6.0, 4.0]}
    other = Rewards.from_specs(SPECS, workers=workers)
    other.load_state_dict(state)
    # from 4 to 8: 1 for 2 tokens, 1/2 for 6, 1 for 4
    assert step(other) == step(rewards) == [pytest.approx(0.4), 0.0, pytest.approx(0.2), pytest.approx(0.4)]


def test_settings_out_of_range():
    with pytest.raises(RecipeError, match="window"):
        Rewards.from_specs({"cheapness": {"window": 0}}, workers=Workers(1))

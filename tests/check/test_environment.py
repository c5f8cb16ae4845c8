"""The trial episode that the check prints, and the action with which it begins."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from llmrl.check.environment import example_action, say_episode
from llmrl.check.report import Report
from llmrl.envs.catalogue import CATALOGUE
from llmrl.pieces import resolve
from llmrl.types import ACTOR, ENVIRONMENT, Prompt, Trajectory, Turn


def test_an_episode_is_printed_with_its_actions_rewards_and_end():
    turns = [
        Turn(ACTOR, [1], text="go <a>on</a>", action="on", reward=0.5),
        Turn(ENVIRONMENT, [2], text="you went"),
        Turn(ACTOR, [3], text="hm", valid=False),
    ]
    trajectory = Trajectory(Prompt("p", (7, 8), "?", {}), turns, "invalid_action", solved=False, measured={"sum": 2.0})
    out = io.StringIO()
    say_episode(trajectory, lambda tokens: f"asked {tokens}", Report(Console(file=out)))
    assert [line.strip() for line in out.getvalue().splitlines()] == [
        "episode      actor reads 'asked [7, 8]'",
        "writes 'go <a>on</a>': action 'on', reward 0.5",
        "is told 'you went'",
        "writes 'hm': no valid action, no reward",
        "ends after 2 turns (invalid_action), unsolved, sum 2",
    ]


@pytest.mark.parametrize(
    ("env", "pattern", "written"),
    [
        ({"gymnasium": {"id": "CartPole-v1", "actions": ["left", "right"]}}, None, ["left"]),
        ({"gymnasium": {"id": "CartPole-v1"}}, "<action>(.*?)</action>", ["<action>0</action>"]),
        ({"textworld": {}}, r"\[(\w+)\]", ["[look]"]),
        ({"textworld": {}}, r"^\d* (look)|x", ["look"]),
        ("single_turn", None, []),
    ],
)
def test_the_first_action_of_a_trial_is_valid_and_written_as_the_recipe_reads_it(env, pattern, written):
    assert example_action(resolve(env, CATALOGUE, key="env", what="environment"), pattern) == written

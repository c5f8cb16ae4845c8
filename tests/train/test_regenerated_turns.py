"""Turns that failed, sampled anew from the text before them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scripted import PARAMS, PROMPTS, piece

from llmrl.data.packing import pack
from llmrl.data.stream import PromptStream
from llmrl.envs.base import AuthorText
from llmrl.ops.advantages.turns import turn_grpo
from llmrl.recipe import Rollout
from llmrl.rollout.collect import Collected
from llmrl.rollout.selection import everything
from llmrl.train.regenerated_turns import regenerated_turns
from llmrl.types import ACTOR, ENVIRONMENT, Failure, Group, Prompt, Trajectory, Turn


def encode(text: str, *, special: bool = False) -> list[int]:
    return [ord(character) for character in text]


TEXT = AuthorText(encode, lambda tokens: "".join(map(chr, tokens)))
QUESTION = Prompt("q", tuple(encode("?")), "?", {"n": 0})


def said(text: str, reward: float | None) -> Turn:
    return Turn(ACTOR, encode(text), [-1.0] * len(text), reward=reward, text=text)


def told(text: str) -> Turn:
    return Turn(ENVIRONMENT, encode(text), text=text)


def sample(*turns: Turn, outcome: float) -> Trajectory:
    return Trajectory(QUESTION, list(turns), "stop", components={"right": outcome}, reward=outcome)


def samples() -> list[Trajectory]:
    return [
        sample(said("hm so [1/0]", 0.0), told("E"), said("or [2/0]", 0.0), told("E"), said("7", None), outcome=1.0),
        sample(said("well [1+1]", 1.0), told("2"), said("2", None), outcome=1.0),
        sample(said("no", None), outcome=0.0),
        Trajectory(QUESTION, [said("[x]", 0.0)], "stop", failure=Failure("environment", "crash", "")),
    ]


class Sampling:
    """Gives the samples, and to each question that is cut short new turns of the rewards `passes`."""

    def __init__(self, passes: Sequence[float | None]):
        self.authors = {ACTOR: SimpleNamespace(text=TEXT)}
        self.passes, self.asked = passes, []

    def collect(self, stream: PromptStream, **known: Any) -> Collected:
        own = samples()
        return Collected([Group(QUESTION, own[:3])], {"reward": 0.5}, [Group(QUESTION, own)])

    def __call__(self, prompts: Sequence[Prompt], params: Any) -> list[Group]:
        self.asked += [prompt.text for prompt in prompts]
        return [
            Group(p, [Trajectory(p, [said("[3]", r), told("3"), said("3", None)], "stop", reward=9.0)
                      for r in self.passes])
            for p in prompts
        ]  # fmt: skip


def collected(*passes: float | None, limit: int = 32, **settings: Any) -> tuple[Collected, Sampling]:
    sampling: Any = Sampling(passes)
    source = regenerated_turns(
        PromptStream(PROMPTS, 0, False), sampling, sampling, {ACTOR: piece(everything)},
        Rollout(prompts_per_step=2, max_prompt_tokens=limit), lambda seed: PARAMS, ACTOR,
        **{"marker": "[", "drop_tokens": 2} | settings,
    )  # fmt: skip
    return source.collect(3), sampling


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "?hm so [1/0]Eo"),  # two tokens before the bracket of the last call that failed
        ({"drop_tokens": 0}, "?hm so [1/0]Eor "),
        ({"drop_tokens": 99}, "?hm so [1/0]E"),  # no more than the turn
        ({"marker": None}, "?hm so [1/0]E"),
        ({"marker": "<"}, "?hm so [1/0]E"),  # which the turn lacks
    ],
)
def test_a_failed_turn_is_cut_before_its_call(settings, text):
    assert collected(1.0, 0.0, **settings)[1].asked == [text]


def test_outcomes_and_new_turns_are_groups_of_their_own():
    """Outcomes 1 and 0 of the two samples without a failed call; new calls 1, 0 and one that was none, which is 0."""
    found, _ = collected(1.0, 0.0, None)
    batch = pack(found.groups, ACTOR)
    assert batch.group_ids.tolist() == [0, 0, 1, 1, 1]
    assert batch.reward_components.tolist() == [[1], [0], [0], [0], [0]]
    assert batch.response_mask[2].nonzero()[:, 0].tolist() == [
        14,
        15,
        16,
    ]  # the new turn, after 14 tokens that are read
    credit = turn_grpo(
        batch.reward_components, batch.turn_rewards, batch.response_mask, batch.turn_ids, batch.group_ids,
        normalize_std=False,
    ).advantages  # fmt: skip
    per_row = [set(row[mask].tolist()) for row, mask in zip(credit, batch.response_mask, strict=True)]
    assert per_row[:2] == [{0.5}, {-0.5}]
    torch.testing.assert_close(
        torch.tensor([list(row) for row in per_row[2:]]).flatten(), torch.tensor([2, -1, -1]) / 3
    )
    assert found.metrics == {
        "reward": 0.5, "regenerated/failed": 1 / 3, "regenerated/too_long": 0.0, "regenerated/turn_reward": 1 / 3,
    }  # fmt: skip
    assert len(found.sampled) == 2


def test_new_turns_that_are_all_alike_teach_nothing():
    assert [len(group.trajectories) for group in collected(1.0, 1.0)[0].groups] == [2]


def test_what_is_too_long_before_the_cut_is_left_alone():
    found, sampling = collected(1.0, 0.0, limit=13)
    assert (sampling.asked, found.metrics["regenerated/too_long"]) == ([], 1.0)
    assert len(found.groups) == 1

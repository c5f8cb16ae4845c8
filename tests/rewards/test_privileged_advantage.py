"""Rewards of turns by a model that is told more, against transformers' own log-probabilities."""

from __future__ import annotations

import asyncio

import pytest
import torch
from reward_model import CHARACTERS
from test_implicit_process_reward import make_model
from transformers import AutoModelForCausalLM

from llmrl.models.loading import character_tokenizer
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.types import ENVIRONMENT, Group, Prompt, Trajectory, Turn


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("critic"), 0)


def encode(text: str) -> list[int]:
    return character_tokenizer(CHARACTERS).encode(text, add_special_tokens=False)


def episode(sampled: bool = True) -> Trajectory:
    """Two turns about the answer 3, the second of which is closed by the end of sequence."""
    asked = Prompt("train:0", tuple(encode("1+2=")), "1+2=", {"answer": "3"})
    turns = [
        Turn("actor", encode("12"), [-1.0, -2.0] if sampled else [], text="12"),
        Turn(ENVIRONMENT, encode("=")),
        Turn("actor", [*encode("3"), 1], [-0.5, -0.25] if sampled else [], text="3"),
    ]
    return Trajectory(asked, turns, "stop", text="3")


def test_a_turn_is_worth_how_much_likelier_the_told_model_finds_it(folder):
    played, foreign = episode(), episode(sampled=False)
    tokens = [*encode("3;"), *encode("1+2="), *encode("12"), *encode("="), *encode("3"), 1]
    logits = AutoModelForCausalLM.from_pretrained(str(folder)).eval()(torch.tensor([tokens])).logits[0].detach()
    found = logits.log_softmax(dim=-1)[torch.arange(len(tokens) - 1), tokens[1:]].tolist()
    first, second = found[5:7], found[8:10]
    gains = [sum(first) + 3.0, sum(second) + 0.75]
    for of_turns in (False, True):
        for one in (played, foreign):
            one.scores.clear()
            one.failure, one.judged = None, False
        given = {"path": str(folder), "context": "{answer};", "of_turns": of_turns}
        rewards = Rewards.from_specs({"privileged_advantage": given}, workers=Workers(1))
        rewards.load_models()
        asyncio.run(rewards.score(Group(played.prompt, [played, foreign], "actor")))
        score = played.scores["privileged_advantage"]
        assert score.value == pytest.approx(0.0 if of_turns else sum(gains) / 4, abs=1e-5)
        assert score.turn_values == pytest.approx([gain / 2 for gain in gains] if of_turns else (), abs=1e-5)
        assert foreign.failure and "did not sample it" in foreign.failure.message

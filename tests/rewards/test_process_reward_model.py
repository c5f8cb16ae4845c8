"""The reward of a saved process reward model: its steps' chances, their places, and what it refuses."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from reward_model import CHARACTERS, TEMPLATE, make_reward_model
from transformers import LlamaConfig, LlamaForTokenClassification

from llmrl.data.packing import pack
from llmrl.data.steps import split_steps
from llmrl.errors import RecipeError
from llmrl.models.frozen_scorer import frozen_scorer
from llmrl.models.kinds import STEP_REWARD_MODEL
from llmrl.models.loading import character_tokenizer
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.types import Group, Prompt, Trajectory, Turn


def make_model(folder: Path, *, labels: int = 1, separator: str | None = "\n") -> Path:
    """A token classifier of two layers with a bias, whose verdicts differ clearly from step to step."""
    tokenizer = character_tokenizer(CHARACTERS)
    tokenizer.chat_template = TEMPLATE
    config = LlamaConfig(  # pyright: ignore
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, num_labels=labels, eos_token_id=1, pad_token_id=0,
        bos_token_id=None,
    )  # fmt: skip
    config.step_separator = separator
    torch.manual_seed(0)
    model = LlamaForTokenClassification(config)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("one"))


ANSWERS = ["1+2=3\n\nso it is 3", "12", "a\n\n\n\nb\n\n"]
STEPS = [["1+2=3", "so it is 3"], ["12"], ["a", "b"]]


def group_of(tokenizer: Any, *, shift: int = 0) -> Group:
    """Sampled completions; shift: of another tokenizer's token ids."""
    encode = lambda text: [token + shift for token in tokenizer.encode(text, add_special_tokens=False)]  # noqa: E731
    prompt = Prompt("train:0", tuple(encode("1+2=")), "1+2=", {})
    made = [Trajectory(prompt, [Turn("actor", [*encode(one), 1])], "stop", text=one) for one in ANSWERS]
    return Group(prompt, made, "actor")


def scored(folder: Path, *, shift: int = 0, **settings: Any) -> Group:
    group = group_of(frozen_scorer(folder, STEP_REWARD_MODEL).tokenizer, shift=shift)
    given = {"path": str(folder), "delimiter": "\n\n"} | settings
    rewards = Rewards.from_specs({"process_reward_model": given}, workers=Workers(1))
    rewards.load_models()
    asyncio.run(rewards.score(group))
    return group


def chances(folder: Path, steps: list[str], separator: str = "\n") -> list[float]:
    """The chances by transformers' own forward: each step with the separator behind it, tokenized alone."""
    model = LlamaForTokenClassification.from_pretrained(str(folder)).eval()
    tokenizer = frozen_scorer(folder, STEP_REWARD_MODEL).tokenizer
    token_ids, places = tokenizer.encode("1+2=", add_special_tokens=False), []
    for step in steps:
        token_ids = token_ids + tokenizer.encode(step, add_special_tokens=False) + tokenizer.encode(separator)
        places.append(len(token_ids) - 1)
    logits = model(input_ids=torch.tensor([token_ids])).logits[0, places].detach()
    return (logits[:, 0].sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)[:, 1]).tolist()


@pytest.mark.parametrize(
    ("steps", "combined"),
    [("min", min), ("product", math.prod), ("last", lambda c: c[-1]), ("mean", lambda c: sum(c) / len(c))],
)
def test_the_chances_of_the_steps_become_one_reward(folder, steps, combined):
    found = [one.reward for one in scored(folder, steps=steps).trajectories]
    expected = [combined(chances(folder, own)) for own in STEPS]
    assert found == pytest.approx(expected, abs=1e-4) and max(expected) - min(expected) > 1e-3
    assert max(chances(folder, STEPS[0])) - min(chances(folder, STEPS[0])) > 1e-3


def test_each_step_s_chance_stands_on_its_last_token(folder):
    """The steps of 'a\n\n\n\nb\n\n' end at the second and at the last newline, or rather the stop token behind it."""
    group = scored(folder, steps="each", weight=2.0)
    batch = pack([group], "actor")
    expected = [[2 * chance for chance in chances(folder, own)] for own in STEPS]
    start = len(group.prompt.token_ids)
    places = [[6, 17], [2], [2, 8]]  # of the completion's own tokens, the stop token included
    for row, (own, at) in enumerate(zip(expected, places, strict=True)):
        given = batch.turn_rewards[row].isfinite().nonzero()[:, 0].tolist()
        assert [place - start for place in given] == at
        assert batch.turn_rewards[row, given].tolist() == pytest.approx(own, abs=1e-4)
        assert batch.rewards[row].sum().item() == pytest.approx(sum(own), abs=1e-4)
        assert group.trajectories[row].reward == 0


def test_another_tokenizer_s_completions_are_scored_by_their_text_and_have_no_places(folder):
    same, other = scored(folder), scored(folder, shift=1)
    assert [one.reward for one in same.trajectories] == [one.reward for one in other.trajectories]
    failures = [one.failure for one in scored(folder, shift=1, steps="each").trajectories]
    assert ["reads other tokens than the policy" in one.message for one in failures if one] == [True] * 3, failures


def test_two_classes_of_which_the_second_is_right(tmp_path):
    found = make_model(tmp_path, labels=2, separator=None)
    expected = [min(chances(found, own, " +")) for own in STEPS]
    assert [one.reward for one in scored(found, separator=" +").trajectories] == pytest.approx(expected, abs=1e-4)
    with pytest.raises(RecipeError, match=r"^rewards.process_reward_model.separator: required, since "):
        scored(found)


def test_other_models_are_refused(tmp_path):
    whole = make_reward_model(tmp_path / "whole")
    with pytest.raises(RecipeError, match="holds LlamaForSequenceClassification, no reward model of steps"):
        frozen_scorer(whole, STEP_REWARD_MODEL)
    with pytest.raises(RecipeError, match="has 3 classes of steps, expected one head or two classes"):
        scored(make_model(tmp_path / "steps", labels=3))


def test_split():
    assert split_steps("a\n\nb", "\n\n") == ["a", "b"]
    assert split_steps("", "\n") == [""] and split_steps("\n\n", "\n") == ["\n\n"]


def test_the_steps_of_an_episode_are_its_authors_turns(folder):
    """The chances at the turns' last tokens, by transformers' own forward over all tokens, the environment's too."""
    tokenizer = frozen_scorer(folder, STEP_REWARD_MODEL).tokenizer
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
    turns = [
        Turn("actor", [*encode("12"), 1], text="12"),
        Turn("environment", encode("=3")),
        Turn("actor", encode("a"), text="a"),
    ]
    asked = Prompt("train:0", tuple(encode("1+2=")), "1+2=", {})
    played = Trajectory(asked, turns, "stop", text="a")
    foreign = Trajectory(asked, [Turn("actor", encode("b"), text="a")], "stop", text="a")
    model = LlamaForTokenClassification.from_pretrained(str(folder)).eval()
    tokens = [*asked.token_ids, *(token for turn in turns for token in turn.token_ids)]
    first, second = model(input_ids=torch.tensor([tokens])).logits[0, [6, 9], 0].sigmoid().tolist()
    for steps, value, of_turns in (("each", 0.0, (first, second)), ("product", first * second, ())):
        group = Group(asked, [played, foreign], "actor")
        given = {"path": str(folder), "steps": steps, "of_turns": True}
        rewards = Rewards.from_specs({"process_reward_model": given}, workers=Workers(1))
        rewards.load_models()
        played.scores.clear()
        played.judged = False
        asyncio.run(rewards.score(group))
        assert not played.failure, played.failure
        score = played.scores["process_reward_model"]
        assert score.value == pytest.approx(value, abs=1e-5)
        assert score.turn_values == pytest.approx(of_turns, abs=1e-5)
        assert foreign.failure and "other tokens" in foreign.failure.message

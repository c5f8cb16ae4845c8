"""The reward of saved reward models: equal scores in any batch, other tokenizers, several models, failures."""

from __future__ import annotations

import asyncio
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from reward_model import make_reward_model
from transformers import AutoModelForSequenceClassification

from llmrl.errors import RecipeError
from llmrl.models.frozen_scorer import frozen_scorer
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.types import Group, Prompt, Trajectory, Turn

MESSAGES = ({"role": "user", "content": "1+2="},)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [make_reward_model(root / str(seed), seed=seed) for seed in range(2)]


def group_of(tokenizer: Any, answers: list[str], *, messages: Any = None, text: str = "1+2=", shift: int = 0) -> Group:
    """Sampled completions; shift: of another tokenizer's token ids."""
    encode = lambda text: [token + shift for token in tokenizer.encode(text, add_special_tokens=False)]  # noqa: E731
    prompt = Prompt("train:0", tuple(encode(text)), text, {}, messages)
    made = [Trajectory(prompt, [Turn("actor", [*encode(one), 1])], "stop", text=one) for one in answers]
    return Group(prompt, made, "actor")


def scored(group: Group, **settings: Any) -> list[float]:
    rewards = Rewards.from_specs({"reward_model": settings}, workers=Workers(1))
    rewards.load_models()
    asyncio.run(rewards.score(group))
    assert not any(one.failure for one in group.trajectories)
    return [one.reward for one in group.trajectories]


def by_transformers(folder: Path, texts: list[str]) -> list[float]:
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    tokenizer = frozen_scorer(folder).tokenizer
    rows = [torch.tensor([tokenizer.encode(text, add_special_tokens=False)]) for text in texts]
    return [float(model(input_ids=row).logits[0, 0].detach()) for row in rows]


ANSWERS = ["3", "12", "it is 3"]


def test_a_group_gets_the_models_own_scores(folders):
    group = group_of(frozen_scorer(folders[0]).tokenizer, ANSWERS)
    expected = by_transformers(folders[0], [f"1+2={one}<eos>" for one in ANSWERS])
    assert scored(group, path=str(folders[0])) == pytest.approx(expected, abs=1e-4)
    assert statistics.pstdev(expected) > 0.01


def test_tokens_that_the_model_reads_otherwise_are_rendered_anew(folders):
    tokenizer = frozen_scorer(folders[0]).tokenizer
    plain = group_of(tokenizer, ANSWERS, shift=3)
    expected = by_transformers(folders[0], [f"1+2={one}<eos>" for one in ANSWERS])
    assert scored(plain, path=str(folders[0])) == pytest.approx(expected, abs=1e-4)
    chat = group_of(tokenizer, ANSWERS, messages=MESSAGES, text="user: 1+2=", shift=3)
    told = [f"<user>1+2=<assistant>{one}<eos>" for one in ANSWERS]
    assert scored(chat, path=str(folders[0])) == pytest.approx(by_transformers(folders[0], told), abs=1e-4)


def test_a_completion_that_was_cut_short_is_closed_before_it_is_scored(folders):
    """As one in another tokenizer's tokens is, and by `llmrl serve`; an answer that ends is left as it is."""
    tokenizer = frozen_scorer(folders[0]).tokenizer
    cut = group_of(tokenizer, ANSWERS)
    for one in cut.trajectories[:2]:
        one.turns[0].token_ids.pop()
        one.stop_reason = "length"
    expected = by_transformers(folders[0], [f"1+2={one}<eos>" for one in ANSWERS])
    assert scored(cut, path=str(folders[0])) == pytest.approx(expected, abs=1e-4)
    chat = group_of(tokenizer, ["3"], messages=MESSAGES, text="<user>1+2=<assistant>")
    chat.trajectories[0].turns[0].token_ids.pop()
    told = by_transformers(folders[0], ["<user>1+2=<assistant>3<eos>"])
    assert scored(chat, path=str(folders[0])) == pytest.approx(told, abs=1e-4)


def test_several_models_are_made_into_one_reward(folders):
    tokenizer = frozen_scorer(folders[0]).tokenizer
    paths = [str(folder) for folder in folders]
    pairs = list(zip(*(scored(group_of(tokenizer, ANSWERS), path=path) for path in paths), strict=True))
    for settings, combined in (
        ({}, statistics.fmean),
        ({"combine": "min"}, min),
        ({"deviations": 2.0}, lambda pair: sum(pair) / 2 - abs(pair[0] - pair[1])),  # of two, half the distance
    ):
        found = scored(group_of(tokenizer, ANSWERS), path=paths, **settings)
        assert found == pytest.approx([combined(pair) for pair in pairs], abs=1e-5)


def test_an_episode_in_another_tokenizers_tokens_fails_and_gets_no_reward(folders):
    group = group_of(frozen_scorer(folders[0]).tokenizer, ["3"], shift=3)
    group.trajectories[0].turns.append(Turn("environment", [5]))
    rewards = Rewards.from_specs({"reward_model": {"path": str(folders[0])}}, workers=Workers(1))
    asyncio.run(rewards.score(group))
    failure = group.trajectories[0].failure
    assert failure and failure.kind == "invalid" and "episode of several turns" in failure.message


def test_a_wrong_folder_or_head_is_told_before_the_stage_begins(folders, tmp_path):
    for settings, fault in (
        ({"path": str(tmp_path)}, r"^rewards.reward_model.path: '.*' has no config.json"),
        ({"path": str(folders[0]), "head": 1}, r"^rewards.reward_model.head: 1, but the model has heads 0 to 0$"),
    ):
        with pytest.raises(RecipeError, match=fault):
            Rewards.from_specs({"reward_model": settings}, workers=Workers(1)).load_models()


def test_the_check_looks_at_the_folders_without_loading_them(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    settings = {"path": [str(tmp_path), "runs/rm/stages/reward"]}
    rewards = Rewards.from_specs({"reward_model": settings}, workers=Workers(1))
    fault = rf"^rewards\.reward_model\.path: '{tmp_path}' holds Qwen3ForCausalLM, no reward model of completions$"
    with pytest.raises(RecipeError, match=fault):
        rewards.check_folders(lambda path: path == "runs/rm/stages/reward")
    opinion = {"score_difference": {"scores": {"reward_model": {"path": str(tmp_path)}}}}
    rewards = Rewards.from_specs({"win_rate": {"opinion": opinion}}, workers=Workers(1))
    with pytest.raises(RecipeError, match=r"^rewards\.win_rate \(reward_model\)\.path: .* holds Qwen3ForCausalLM"):
        rewards.check_folders(lambda path: False)


def test_a_model_is_an_opinion_on_pairs(folders):
    """Its folder is loaded and checked like a reward's own; the chance is a sigmoid of the difference of scores."""
    group = group_of(frozen_scorer(folders[0]).tokenizer, ANSWERS[:2])
    first, second = scored(group, path=str(folders[0]))
    opinion = {"score_difference": {"scores": {"reward_model": {"path": str(folders[0])}}, "scale": 2.0}}
    rewards = Rewards.from_specs({"win_rate": {"opinion": opinion}}, workers=Workers(1))
    assert rewards.model_folders == [str(folders[0])]
    rewards.check_folders(lambda path: False)
    rewards.load_models()
    asyncio.run(rewards.score(group))
    chance = 1 / (1 + math.exp(-2 * (first - second)))
    assert [one.scores["win_rate"].value for one in group.trajectories] == pytest.approx([chance, 1 - chance])
    opinion["score_difference"]["scores"] = {"reward_model": {"path": str(folders[0]), "head": 7}}
    with pytest.raises(RecipeError, match=r"rewards\.reward_model\.head: 7, but the model has heads 0 to 0"):
        Rewards.from_specs({"win_rate": {"opinion": opinion}}, workers=Workers(1)).load_models()

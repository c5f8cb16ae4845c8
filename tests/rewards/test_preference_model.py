"""A pairwise preference model: what it learns from, and its opinion, against transformers' own forward."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path

import pytest
import torch
from reward_model import make_reward_model
from transformers import AutoModelForSequenceClassification

from llmrl.data.packing import pack
from llmrl.data.stream import PromptStream
from llmrl.data.written import Span, Written
from llmrl.errors import RecipeError
from llmrl.models.frozen_scorer import frozen_scorer
from llmrl.models.kinds import PREFERENCE_MODEL
from llmrl.ops.preference_losses.reward_models import bradley_terry
from llmrl.recipe import Recipe, Rollout
from llmrl.resolve import resolve_pieces
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.train.sources import answer_pairs
from llmrl.types import Group, Prompt, Trajectory, Turn

PROMPT = Prompt("train:0", (10, 11), "1+", {})
ANSWERS = ["3", "12", "it is 3"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = make_reward_model(tmp_path_factory.mktemp("model"))
    config = json.loads((found / "config.json").read_text())
    (found / "config.json").write_text(json.dumps(config | {"compares_answers": True}))
    return found


def score(folder: Path, prompt: str, *answers: str) -> float:
    """transformers' score of a prompt and answers, each of which ends with <eos>."""
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    text = prompt + "".join(f"{answer}<eos>" for answer in answers)
    tokens = frozen_scorer(folder, PREFERENCE_MODEL).tokenizer.encode(text)
    return float(model(input_ids=torch.tensor([tokens])).logits[0, 0].detach())


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_completion_s_reward_is_its_chance_against_the_others_in_both_orders(folder):
    tokenizer = frozen_scorer(folder, PREFERENCE_MODEL).tokenizer
    prompt = Prompt("train:0", tuple(tokenizer.encode("1+2=")), "1+2=", {})
    made = [Trajectory(prompt, [Turn("actor", [*tokenizer.encode(one), 1])], "stop", text=one) for one in ANSWERS]
    group = Group(prompt, made, "actor")
    spec = {"win_rate": {"opinion": {"preference_model": {"path": str(folder)}}}}
    rewards = Rewards.from_specs(spec, workers=Workers(1))
    assert rewards.model_folders == [str(folder)]
    rewards.load_models()
    asyncio.run(rewards.score(group))

    def chance(a: str, b: str) -> float:
        return sigmoid(score(folder, "1+2=", a, b) - score(folder, "1+2=", b, a))

    expected = [sum(chance(a, b) for b in ANSWERS if b != a) / 2 for a in ANSWERS]
    assert [one.reward for one in made] == pytest.approx(expected, abs=1e-4)
    assert sum(expected) == pytest.approx(1.5, abs=1e-5) and max(expected) - min(expected) > 0.01


def test_a_pair_is_learned_in_both_orders_at_once():
    """Rewards 2, 1, 1: two pairs, each a group of two texts; the tie is no pair."""
    written = {"train:0": [Written([Span([n])], reward) for n, reward in ((5, 1.0), (6, 2.0), (7, 1.0))]}
    source = answer_pairs(PromptStream([PROMPT], 0, False), written, Rollout(prompts_per_step=1), "actor")
    batch = pack(source.collect(0).groups, "actor")
    assert batch.token_ids.tolist() == [[10, 11, 6, 5], [10, 11, 5, 6], [10, 11, 6, 7], [10, 11, 7, 6]]
    assert batch.group_ids.tolist() == [0, 0, 1, 1]
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 1]] * 4
    assert batch.rewards.tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]] * 2  # at the end, where the score is
    first, second = torch.tensor([0.7]), torch.tensor([-0.2])  # score(a, b), score(b, a)
    loss = bradley_terry(first, second, torch.ones(1), torch.zeros(1))
    assert float(loss) == pytest.approx(-math.log(sigmoid(0.7 + 0.2)), abs=1e-6)


def test_models_of_single_answers_and_losses_without_scores_are_refused(folder, tmp_path):
    plain = make_reward_model(tmp_path)
    spec = {"win_rate": {"opinion": {"preference_model": {"path": str(plain)}}}}
    with pytest.raises(RecipeError, match="holds a model that scores single answers, expected one that compares two"):
        Rewards.from_specs(spec, workers=Workers(1)).load_models()
    with pytest.raises(RecipeError, match="holds a model that compares two answers, expected one that scores single"):
        Rewards.from_specs({"reward_model": {"path": str(folder)}}, workers=Workers(1)).load_models()
    recipe = {
        "name": "case", "run_dir": "unused", "model": "unused", "learn_from": "answer_pairs",
        "data": {"train": {"path": "unused", "chosen": "good", "rejected": "bad"}},
        "preference_loss": {"dpo": {"weight": 1.0}}, "rollout": {"group_size": 2},
    }  # fmt: skip
    with pytest.raises(RecipeError, match="learn_from: answer_pairs puts two answers into one text"):
        resolve_pieces(Recipe.model_validate(recipe))

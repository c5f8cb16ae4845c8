"""Rewards of tokens by two saved language models, against transformers' own log-probabilities."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from reward_model import CHARACTERS, make_reward_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llmrl.data.packing import pack
from llmrl.errors import RecipeError
from llmrl.models.loading import character_tokenizer
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.types import Group, Prompt, Trajectory, Turn

ANSWERS = ["1+2=3\nso 3", "12"]


def make_model(folder: Path, seed: int, characters: str = CHARACTERS) -> Path:
    tokenizer = character_tokenizer(characters)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=1, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    return make_model(root / "model", 0), make_model(root / "reference", 1)


def group_of(*, shift: int = 0) -> Group:
    encode = lambda text: [t + shift for t in character_tokenizer(CHARACTERS).encode(text)]  # noqa: E731
    prompt = Prompt("train:0", tuple(encode("1+2=")), "1+2=", {})
    made = [Trajectory(prompt, [Turn("actor", [*encode(one), 1])], "stop", text=one) for one in ANSWERS]
    return Group(prompt, made, "actor")


def scored(folders: tuple[Path, Path], *, shift: int = 0, **settings: Any) -> Group:
    group, given = group_of(shift=shift), {"path": str(folders[0]), "reference": str(folders[1]), "beta": 0.5}
    rewards = Rewards.from_specs({"implicit_process_reward": given | settings}, workers=Workers(1))
    rewards.load_models()
    assert rewards.model_folders == [str(folder) for folder in folders]
    asyncio.run(rewards.score(group))
    return group


def expected(folders: tuple[Path, Path], trajectory: Trajectory) -> list[float]:
    """Half of log pi - log pi_ref of each token."""
    start, found = len(trajectory.prompt.token_ids), []
    token_ids = torch.tensor([[*trajectory.prompt.token_ids, *trajectory.turns[0].token_ids]])
    for folder in folders:
        logits = AutoModelForCausalLM.from_pretrained(str(folder)).eval()(input_ids=token_ids).logits[0, :-1]
        logprobs = logits.log_softmax(dim=-1).gather(1, token_ids[0, 1:, None])[:, 0]
        found.append(logprobs[start - 1 :].detach())
    return (0.5 * (found[0] - found[1])).tolist()


def test_each_token_has_beta_times_its_log_ratio(folders):
    group = scored(folders)
    batch, start = pack([group], "actor"), len(group.prompt.token_ids)
    for row, trajectory in enumerate(group.trajectories):
        wanted = expected(folders, trajectory)
        given = batch.turn_rewards[row, start : start + len(wanted)].tolist()
        assert given == pytest.approx(wanted, abs=1e-4) and max(wanted) - min(wanted) > 0.1
        told = trajectory.scores["implicit_process_reward"].metrics
        assert told["outcome_logit"] == pytest.approx(sum(wanted), abs=1e-4)


def test_a_step_has_the_sum_of_its_tokens_on_its_last(folders):
    first, second = scored(folders, delimiter="\n").trajectories
    wanted = expected(folders, first)
    sums = {5: pytest.approx(sum(wanted[:6]), abs=1e-4), 10: pytest.approx(sum(wanted[6:]), abs=1e-4)}
    assert first.token_rewards == sums
    assert list(second.token_rewards) == [2]


def test_other_tokens_and_other_models_are_refused(folders, tmp_path):
    failures = [one.failure for one in scored(folders, shift=1).trajectories]
    assert [one.message for one in failures if one] == ["the models read other tokens than the policy"] * 2
    other = make_model(tmp_path / "other", 0, CHARACTERS + "!")
    with pytest.raises(RecipeError, match=r"^rewards.implicit_process_reward.reference: .* has other tokens than"):
        scored((folders[0], other))
    with pytest.raises(RecipeError, match=r"^rewards.implicit_process_reward.path: .* no language model$"):
        scored((make_reward_model(tmp_path / "scorer"), folders[1]))

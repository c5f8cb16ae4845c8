"""A gate over a reward model's heads: its scores, its training alone, and what is saved of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch
from by_hand import tokens_of
from preference_cases import DATA, OFFLINE, preference_batch
from reward_model import make_reward_model
from test_preferences import PAIRS
from torch.nn.functional import logsigmoid
from training_cases import LAYOUTS, make_recipe, role_of, tiny_scorer
from transformers import AutoModelForSequenceClassification

from llmrl.errors import RecipeError
from llmrl.models.frozen_scorer import frozen_scorer
from llmrl.models.gate import Gate, load_gate, save_gate
from llmrl.resolve import resolve_pieces
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.train.provide import provide
from llmrl.train.step import update
from llmrl.types import Group, Prompt, Trajectory, Turn

GATED = OFFLINE | {
    "preference_loss": {"bradley_terry": {"weight": 1.0}},
    "model": {"path": "unused", "heads": 3, "gate": {"layers": [5], "temperature": 0.5}},
}


def test_weights_by_hand():
    """ReLU(2, -1) = (2, 0), then logits 2 and 4, over temperature 2 they are 1 apart: 3 sigmoid(-1), 3 sigmoid(1)."""
    gate = Gate(2, 2, layers=[2], temperature=2.0)
    for layer, weight in zip(gate.layers, ([[1.0, 0], [0, 1]], [[1.0, 5], [2, 7]]), strict=True):
        layer.weight.data, layer.bias.data = torch.tensor(weight), torch.zeros(2)  # pyright: ignore
    gate.scale.data.fill_(3.0)
    assert gate(torch.tensor([2.0, -1.0])).tolist() == pytest.approx([3 * 0.2689414, 3 * 0.7310586])


def score(model, gate: Gate, row: int) -> torch.Tensor:
    """The sum of the heads at the last response token, weighed by the hidden state of the prompt's last token."""
    tokens = tokens_of(LAYOUTS[row])
    ids = preference_batch().token_ids[row : row + 1, : tokens[-1] + 1]
    hidden = model.model(input_ids=ids).last_hidden_state[0]
    return (gate(hidden[tokens[0] - 1]) * (hidden[-1] @ model.score.weight.T)).sum()


@pytest.mark.parametrize("padding_free", [True, False])
def test_the_gate_alone_learns_from_pairs(padding_free):
    role = role_of(GATED, padding_free=padding_free)
    model, gate = tiny_scorer(3), Gate(32, 3, layers=[5], temperature=0.5)
    loss = sum(part / 2 * -logsigmoid(score(model, gate, chosen) - score(model, gate, rejected))
               for chosen, rejected, part in PAIRS)  # fmt: skip
    metrics = update(role, provide(role, preference_batch()), seed=0)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
    trained = role.learner.engine.trained_weights()
    assert set(trained) == {"gate.scale", *(f"gate.layers.{n}.{kind}" for n in (0, 1) for kind in ("weight", "bias"))}
    before = {f"gate.{name}": value for name, value in gate.state_dict().items()}
    assert all(not torch.equal(trained[name], before[name]) for name in trained)
    assert torch.equal(role.learner.engine.model.lm.score.weight, model.score.weight)


def test_a_saved_gate_makes_one_reward_of_the_heads(tmp_path):
    folder = make_reward_model(tmp_path, labels=2)
    gate = Gate(64, 2, layers=[4, 3], temperature=0.1, seed=3)
    save_gate(Path(folder), gate.state_dict(), gate.temperature)
    loaded = load_gate(folder)
    assert loaded is not None and torch.equal(loaded(torch.ones(64)), gate(torch.ones(64)))
    tokenizer = frozen_scorer(folder).tokenizer
    asked = tokenizer.encode("1+2=")
    prompt, answers = Prompt("train:0", tuple(asked), "1+2=", {}), ["3", "it is 12"]
    made = [Trajectory(prompt, [Turn("actor", [*tokenizer.encode(one), 1])], "stop", text=one) for one in answers]
    rewards = Rewards.from_specs({"reward_model": {"path": str(folder)}}, workers=Workers(1))
    rewards.load_models()
    asyncio.run(rewards.score(Group(prompt, made, "actor")))
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()  # its heads, without the gate
    for one in made:
        hidden = model.model(input_ids=torch.tensor([[*asked, *one.turns[0].token_ids]])).last_hidden_state[0]
        expected = (gate(hidden[len(asked) - 1]) * (hidden[-1] @ model.score.weight.T)).sum()
        assert one.reward == pytest.approx(float(expected.detach()), abs=1e-4)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"model": {"path": "m", "heads": 1, "gate": {}}}, "leaves model.gate nothing to weigh"),
        (
            {"model": {"path": "m", "heads": 2, "gate": {}, "lora": {"rank": 2}}},
            "leave one of model.lora and",
        ),
        ({"preference_loss": {"dpo": {"weight": 1.0}}}, "only a reward model of completions has heads"),
    ],
)
def test_gates_without_heads_are_refused(change, fault):
    with pytest.raises(RecipeError, match=fault):
        resolve_pieces(make_recipe(**(GATED | {"data": DATA} | change)))

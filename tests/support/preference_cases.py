"""Pairs of completions for tests: a fixed batch and held-out rows, DPO with references that move, reward models."""

from __future__ import annotations

from typing import Any

import torch
from by_hand import tokens_of
from training_cases import LAYOUTS, fixed_batch, record_gradients, role_of, tiny_lm, tiny_scorer, train, with_lora

from llmrl.batch import Batch
from llmrl.data.written import Span, Written
from llmrl.models.loading import for_training
from llmrl.recipe import Lora
from llmrl.train.held_out import HeldOut, compare
from llmrl.train.sources import compared_group
from llmrl.types import ACTOR, Prompt

DATA = {"train": {"path": "unused", "chosen": "good", "rejected": "bad"}}
OFFLINE = {"learn_from": "preferences", "data": DATA, "rollout": {"group_size": 2}}
DPO = OFFLINE | {"preference_loss": {"dpo": {"weight": 1.0, "beta": 0.4}}}
REWARD_MODEL = OFFLINE | {"preference_loss": {"bradley_terry": {"weight": 1.0, "centring": 0.1}}}
MOVING: dict[str, Any] = DPO | {"reference": {"every": 1, "mix": 0.25}}

ROWS: dict[str, list[tuple[list[int], float]]] = {
    "a": [([5, 6, 7], 1.0), ([8, 9], 0.0)],
    "b": [([10, 4], 1.0), ([12, 13, 14, 3], 0.0)],
    "c": [([20], 2.0), ([21, 22], 1.0), ([23, 24, 25], 0.0)],
    "d": [([30, 31], 1.0)],
    "e": [([32, 33, 34], 0.0)],
}
"""Held-out completions with their rewards: lists of two and three, and single ones."""
ASKED = {name: (2, 3 + place) for place, name in enumerate(ROWS)}


def held_out(at_once: int = 2) -> HeldOut:
    groups = [
        compared_group(
            Prompt(name, ASKED[name], "", {}), [Written([Span(tokens)], reward) for tokens, reward in rows], ACTOR
        )
        for name, rows in ROWS.items()
    ]
    return HeldOut(groups, {"a": "chat", "b": "chat", "c": "code", "d": "code"}, at_once)


def preference_batch() -> Batch:
    """The fixed batch as if nobody had sampled it; group 0 has three rewards, group 1 two, group 2 a tie."""
    batch = fixed_batch()
    rewards = torch.zeros_like(batch.rewards)
    for row, reward in enumerate([1.0, 0.0, 2.0, 1.0, 0.0, 5.0, 1.0]):
        if tokens := tokens_of(LAYOUTS[row]):
            rewards[row, tokens[-1]] = reward
    return batch.with_(
        rewards=rewards, rollout_logprobs=torch.zeros_like(rewards), group_ids=torch.tensor([0, 0, 0, 1, 1, 1, 2])
    )


def moved(*, lora: bool, **settings: Any) -> dict[str, Any]:
    """Two steps of DPO whose reference moves after each: the gradients, the metrics and the weights of both models."""
    role = role_of(MOVING, lm=with_lora(tiny_lm()) if lora else None, **settings)
    gradients, metrics = record_gradients(role.learner.engine), []
    for step in (0, 1):
        metrics.append(train(role, preference_batch(), step))
        assert role.moving is not None
        role.moving.after(step + 1)
    return {
        "gradients": list(gradients),
        "metrics": metrics,
        "trained": role.learner.engine.trained_weights(),
        "reference": {name: weight.clone() for name, weight in role.moving.kept.items()},
    }


def scored(*, lora: bool, **settings: Any) -> dict[str, Any]:
    """Two steps of a reward model: gradients, metrics and weights, and how it compares held-out rows afterwards."""
    torch.manual_seed(1)  # for the adapter
    lm = for_training(tiny_scorer(), Lora(rank=3), gradient_checkpointing=False) if lora else None
    role = role_of(REWARD_MODEL, lm=lm, **settings)
    gradients = record_gradients(role.learner.engine)
    metrics = [train(role, preference_batch(), step) for step in (0, 1)]
    return {
        "gradients": list(gradients),
        "metrics": metrics,
        "held_out": compare(role, held_out()),
        "trained": role.learner.engine.trained_weights(),
        "weights": dict(role.learner.weights()),
    }

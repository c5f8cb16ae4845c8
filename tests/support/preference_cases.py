"""Pairs of completions for tests: a fixed batch, and DPO with references that move."""

from __future__ import annotations

from typing import Any

import torch
from by_hand import tokens_of
from training_cases import LAYOUTS, fixed_batch, record_gradients, role_of, tiny_lm, train, with_lora

from llmrl.batch import Batch

DATA = {"train": {"path": "unused", "chosen": "good", "rejected": "bad"}}
OFFLINE = {"learn_from": "preferences", "data": DATA, "rollout": {"group_size": 2}}
DPO = OFFLINE | {"preference_loss": {"dpo": {"weight": 1.0, "beta": 0.4}}}
MOVING: dict[str, Any] = DPO | {"reference": {"every": 1, "mix": 0.25}}


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

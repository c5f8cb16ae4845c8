"""Roles with a critic, with losses that compare trajectories or candidates: the same under every engine.

Both sides of test_ranks_deepspeed run them: each rank with DeepSpeed, and one process with plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from training_cases import (
    GRPO,
    TEMPERATURE,
    VOCABULARY,
    fixed_batch,
    identical,
    make_algorithm,
    make_training,
    record_gradients,
    tiny_lm,
    tiny_policy,
    with_lora,
)

from llmrl.engines.engine import Engine
from llmrl.engines.ranks import Ranks
from llmrl.models.critic import Critic, ValueHead
from llmrl.models.policy import Policy
from llmrl.recipe import Critic as CriticSettings
from llmrl.recipe import Training
from llmrl.train.annotate import annotate
from llmrl.train.gradients import reward_influences, success_gradient_norms
from llmrl.train.roles import Role, ValueFunction
from llmrl.train.step import update
from llmrl.types import ACTOR, Batch, Group, Prompt, Score, Trajectory, Turn

MakeEngine = Callable[[nn.Module, Training], Engine]

PPO = {
    "token_rewards": {"kl_k1": {"weight": 0.05}},
    "advantage": {"gae": {"lam": 0.9}},
    "policy_loss": "ppo_clip",
    "value_loss": {"squared": {"clip": 0.2}},
    "reduce": "token_mean",
}
# Adam turns rounding errors of small gradients into steps of the learning rate, which the second update would see
TWO_UPDATES = {"updates_per_step": 2, "learning_rate": 1e-3}


@dataclass(frozen=True)
class Case:
    """A recipe's pieces and settings, trained for `steps` steps."""

    pieces: dict[str, Any] = field(default_factory=lambda: PPO)
    critic: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    steps: int = 1
    lora: bool = False


CASES = {
    "own": Case(critic={"learning_rate": 5e-3}),
    "own_several": Case(training=TWO_UPDATES),
    "own_warmup": Case(critic={"warmup_steps": 1, "frozen": True}, training={"learning_rate": 1e-3}, steps=2),
    "own_lora": Case(training=TWO_UPDATES, lora=True),
    "shared": Case(critic={"backbone": "shared", "outputs": 2, "weight": 0.5}, training=TWO_UPDATES),
    "coupled": Case({"policy_loss": "pacs"}, training=TWO_UPDATES),
    "candidates": Case(GRPO | {"policy_loss": {"simko": {"share": 0.3}}}, training=TWO_UPDATES),
}


def make_role(case: Case, make_engine: MakeEngine, ranks: Ranks) -> Role:
    algorithm, training = make_algorithm(**case.pieces), make_training(**case.training)
    settings = CriticSettings.model_validate(case.critic)
    shared = settings.backbone == "shared"
    critic, reference = None, None
    policy = Policy(
        with_lora(tiny_lm()) if case.lora else tiny_lm(),
        temperature=TEMPERATURE,
        value_head=_value_head(settings) if shared else None,
    )
    engine = make_engine(policy.train(), training)
    if algorithm.has_critic:
        own = None if shared else _critic_engine(case, settings, make_engine, training)
        critic = ValueFunction(settings, own)
    if "ref_logprobs" in algorithm.needs and not case.lora:
        reference = tiny_policy(tiny_lm(seed=3)).eval().requires_grad_(False)
    return Role("actor", algorithm, engine, training, ranks, reference, critic)


def _critic_engine(case: Case, settings: CriticSettings, make_engine: MakeEngine, training: Training) -> Engine:
    lm = with_lora(tiny_lm(seed=2), seed=5) if case.lora else tiny_lm(seed=2)
    rate = settings.learning_rate or training.learning_rate
    critic = Critic(lm, _value_head(settings))
    return make_engine(critic.train(), training.model_copy(update={"learning_rate": rate}))


def _value_head(settings: CriticSettings) -> ValueHead:
    return ValueHead(32, settings.outputs, seed=4)


def judged_batch() -> Batch:
    """The fixed batch with verdicts, one of them unknown, and three reward functions."""
    batch = fixed_batch()
    components = torch.rand(len(batch), 3, generator=torch.Generator().manual_seed(6))
    correct = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0, float("nan")])
    return replace(batch, correct=correct, reward_components=components)


def run(case: Case, make_engine: MakeEngine, ranks: Ranks) -> dict[str, Any]:
    """Every optimizer step's gradients, of policy and critic, and every step's metrics."""
    role = make_role(case, make_engine, ranks)
    gradients = {name: record_gradients(engine) for name, engine in _engines(role).items()}
    metrics = [_train(role, step) for step in range(case.steps)]
    return {"gradients": gradients, "metrics": metrics}


def continued(make_engine: MakeEngine, ranks: Ranks, folder: Path) -> bool:
    """Whether policy and critic, saved and loaded after a step, both go on bit for bit."""
    case = Case(training={"schedule": "linear", "warmup_steps": 4})
    role, fresh = make_role(case, make_engine, ranks), make_role(case, make_engine, ranks)
    _train(role, 0)
    role.save(folder)
    first = [_train(role, step) for step in (1, 2)]
    fresh.load(folder)
    second = [_train(fresh, step) for step in (1, 2)]
    pairs = zip(_engines(role).values(), _engines(fresh).values(), strict=True)
    return first == second and all(identical(a.trained_weights(), b.trained_weights()) for a, b in pairs)


def _engines(role: Role) -> dict[str, Engine]:
    own = role.critic.engine if role.critic else None
    return {"policy": role.engine} | ({"critic": own} if own else {})


def _train(role: Role, step: int) -> dict[str, float]:
    return update(role, annotate(role, judged_batch(), seed=step), seed=step, step=step)


def measured_at_the_head(make_engine: MakeEngine, ranks: Ranks) -> dict[str, list[float]]:
    """What is measured of the LM head's gradients: of groups' successes, and of three reward functions."""
    role = make_role(Case(GRPO), make_engine, ranks)
    influences = reward_influences(role, judged_batch())
    return {
        "success_gradient_norms": success_gradient_norms(role, _groups()),
        "reward_influences": list(influences.values()),
    }


def _groups() -> list[Group]:
    """Completions of 1 to 12 tokens: of the first prompt two are right, of the second none, of the third all."""
    generator = torch.Generator().manual_seed(7)
    groups = []
    for number, verdicts in enumerate(([1, 0, 1], [0, 0], [1])):
        prompt = Prompt(f"p{number}", (1, 2 + number), "", {})
        trajectories = []
        for right in verdicts:
            length = int(torch.randint(1, 13, (), generator=generator))
            tokens = torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()
            turn = Turn(ACTOR, tokens, [0.0] * length)
            scores = {"verifier": Score(float(right), bool(right))}
            trajectories.append(Trajectory(prompt, [turn], "stop", scores=scores, reward=float(right)))
        groups.append(Group(prompt, trajectories))
    return groups

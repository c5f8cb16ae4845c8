"""Roles with a critic, with losses that compare trajectories or candidates: the same under every engine.

Both sides of test_ranks run them: each rank with an engine for several, and one process with plain torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from training_cases import (
    GRPO,
    VOCABULARY,
    at_the_head,
    engines_of,
    fixed_batch,
    identical,
    record_gradients,
    role_of,
    tiny_lm,
    train,
    with_lora,
)

from llmrl.batch import Batch
from llmrl.types import ACTOR, Group, Prompt, Score, Trajectory, Turn

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
    "own": Case(critic={"learning_rate": 5e-3}, training=TWO_UPDATES),
    "own_warmup": Case(critic={"warmup_steps": 1, "frozen": True}, training={"learning_rate": 1e-3}, steps=2),
    "own_lora": Case(training=TWO_UPDATES, lora=True),
    "shared": Case(critic={"backbone": "shared", "outputs": 2, "weight": 0.5}, training=TWO_UPDATES),
    "coupled": Case({"policy_loss": "pacs"}, training=TWO_UPDATES),
    "candidates": Case(GRPO | {"policy_loss": {"simko": {"share": 0.3}}}, training=TWO_UPDATES),
}


def make_role(case: Case, engine: dict[str, Any], ranks: Any) -> Any:
    """engine: the settings that choose it."""
    lm = with_lora(tiny_lm()) if case.lora else None
    critic_lm = with_lora(tiny_lm(seed=2), seed=5) if case.lora else None
    pieces = case.pieces | {"critic": case.critic}
    return role_of(pieces, lm=lm, critic_lm=critic_lm, ranks=ranks, **case.training, **engine)


def judged_batch() -> Batch:
    """The fixed batch with verdicts, one of them unknown, three reward functions, and contexts of critics."""
    batch = fixed_batch()
    components = torch.rand(len(batch), 3, generator=torch.Generator().manual_seed(6))
    correct = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0, float("nan")])
    contexts = torch.tensor([[5, -1, 7], [-1, 8, -2], [6, 9, -1]])[torch.arange(len(batch)) % 3]
    return batch.with_(correct=correct, reward_components=components, context_ids=contexts)


def run(case: Case, engine: dict[str, Any], ranks: Any) -> dict[str, Any]:
    """Every optimizer step's gradients, of policy and critic, and every step's metrics."""
    role = make_role(case, engine, ranks)
    gradients = {name: record_gradients(one) for name, one in engines_of(role).items()}
    metrics = [train(role, judged_batch(), step) for step in range(case.steps)]
    return {"gradients": gradients, "metrics": metrics}


def continued(engine: dict[str, Any], ranks: Any, folder: Path) -> bool:
    """Whether policy and critic, saved and loaded after a step, both go on bit for bit."""
    case = Case(training={"schedule": "linear", "warmup_steps": 4})
    role, fresh = make_role(case, engine, ranks), make_role(case, engine, ranks)
    train(role, judged_batch())
    folder.mkdir(exist_ok=True)
    role.save(folder)
    ranks.barrier("saving")
    first = train(role, judged_batch(), 1)
    fresh.load(folder)
    second = train(fresh, judged_batch(), 1)
    pairs = zip(engines_of(role).values(), engines_of(fresh).values(), strict=True)
    return first == second and all(identical(a.trained_weights(), b.trained_weights()) for a, b in pairs)


def left_out(engine: dict[str, Any], ranks: Any, *, parts: int = 1) -> list[dict[str, torch.Tensor]]:
    """Gradients of two optimizer steps: in the first one micro-batch of four reaches the value head, then none does.

    parts: how many ranks share the micro-batches.
    """
    role = make_role(Case(critic={"backbone": "shared"}, training={"learning_rate": 1e-3}), engine, ranks)
    batch, gradients = fixed_batch(), record_gradients(role.learner.engine)
    inputs = batch.token_ids, batch.attention_mask, batch.response_mask
    mine = [number for number in range(4) if number % parts == ranks.rank]
    for reaching in (0, None):
        for number in mine:
            wanted = frozenset({"value_outputs"} if number == reaching else ())
            found = role.learner.engine.forward(*inputs, wanted=wanted)
            loss = found["logprobs"].sum() + found.get("value_outputs", torch.zeros(())).sum()
            role.learner.engine.backward(loss / 500, last=number == mine[-1])
        role.learner.engine.step()
    return gradients


def measured_at_the_head(engine: dict[str, Any], ranks: Any) -> dict[str, list[float]]:
    """What is measured of the LM head's gradients: of groups' successes, and of three reward functions."""
    return at_the_head(make_role(Case(GRPO), engine, ranks), judged_batch(), _groups())


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

"""Gradients at the LM head that allocation and reward weights read, against autograd of a model with an untied head."""

from __future__ import annotations

import math

import pytest
import torch
from by_hand import log_p_of, tokens_of
from torch import Tensor
from training_cases import GRPO, LAYOUTS, fixed_batch, role_of, tiny_lm

from llmrl.batch import Batch
from llmrl.providers.gradients import gradient_norms, influence
from llmrl.train.learner import Learner
from llmrl.train.provide import for_allocation, provide
from llmrl.train.step import update
from llmrl.types import ACTOR, ENVIRONMENT, Failure, Group, Prompt, Score, Trajectory, Turn


def untied_policy(**settings: int) -> Learner:
    return role_of(GRPO, lm=tiny_lm(tied=False), **settings).learner


def head_gradient(batch: Batch, coefficients: list[float]) -> Tensor:
    """Of the sum over trajectories of c log p(response), with respect to the head's weight."""
    lm, terms = tiny_lm(tied=False), [torch.zeros((), requires_grad=True)]
    for row, layout in enumerate(LAYOUTS):
        token_ids = batch.token_ids[row, : len(layout)].tolist()
        log_p = log_p_of(lm, token_ids)
        terms += [coefficients[row] * log_p[t - 1, token_ids[t]] for t in tokens_of(layout)]
    return torch.autograd.grad(torch.stack(terms).sum(), lm.lm_head.weight)[0]


# of successes


def prompt_of(row: int) -> Prompt:
    """The prompt of a row of the fixed batch."""
    length = LAYOUTS[row].index("A")
    return Prompt(f"p{row}", tuple(fixed_batch().token_ids[row, :length].tolist()), "", {})


def trajectory_of(row: int, *, correct: bool | None = True, reward: float = 0.0, failed: bool = False) -> Trajectory:
    """A row of the fixed batch, as it was played."""
    layout, token_ids, turns = LAYOUTS[row], fixed_batch().token_ids[row].tolist(), []
    for t in range(layout.index("A"), len(layout)):
        if layout[t] != layout[t - 1]:
            turns.append(Turn(ACTOR if layout[t] == "A" else ENVIRONMENT, []))
        turns[-1].token_ids.append(token_ids[t])
    one = Trajectory(prompt_of(row), turns, "stop", reward=reward)
    one.scores = {"verifier": Score(reward, correct)}
    one.failure = Failure("verifier", "crash", "") if failed else None
    return one


def norm_of(row: int) -> float:
    return float(head_gradient(fixed_batch(), [float(one == row) for one in range(len(LAYOUTS))]).norm())


@pytest.mark.parametrize("tokens", [1, 16, 10**6])
def test_a_groups_norm_is_the_mean_over_its_successes(tokens):
    groups = [
        Group(prompt_of(0), [trajectory_of(0), trajectory_of(1, correct=False), trajectory_of(2)]),
        Group(prompt_of(1), [trajectory_of(1, correct=False), trajectory_of(3, failed=True)]),
        Group(prompt_of(4), [trajectory_of(4), trajectory_of(3, failed=True)]),
        Group(prompt_of(3), [trajectory_of(3, correct=None, reward=0.5), trajectory_of(6, correct=None, reward=-0.5)]),
    ]
    norms = {row: norm_of(row) for row in (0, 2, 3, 4)}
    assert min(norms.values()) > 1 and len({round(norm, 2) for norm in norms.values()}) == 4
    expected = [(norms[0] + norms[2]) / 2, 0.0, norms[4], norms[3]]
    policy = untied_policy(tokens_per_micro_batch=tokens)
    assert gradient_norms(groups, policy).tolist() == pytest.approx(expected, rel=1e-4)
    assert all(parameter.grad is None for parameter in policy.engine.model.parameters())


def test_an_allocation_gets_the_norms_that_it_reads():
    role = role_of(GRPO | {"allocate": "gvm"}, lm=tiny_lm(tied=False))
    groups = [Group(prompt_of(0), [trajectory_of(0)]), Group(prompt_of(1), [trajectory_of(1, correct=False)])]
    asked = for_allocation(role.pieces, role.models)
    assert {name: function(groups).tolist() for name, function in asked.items()} == {
        "gradient_norms": pytest.approx([norm_of(0), 0.0], rel=1e-4)
    }
    assert for_allocation(role_of(GRPO | {"allocate": "xrpo"}).pieces, role.models) == {}
    assert for_allocation(role_of(GRPO).pieces, role.models) == {}


def test_without_successes_nothing_is_run(monkeypatch):
    policy = untied_policy()
    monkeypatch.setattr(policy.engine, "forward", lambda *inputs, **asked: pytest.fail("a forward pass"))
    groups = [Group(prompt_of(0), [trajectory_of(0, correct=False)])] * 2
    assert gradient_norms(groups, policy).tolist() == [0.0, 0.0]


# of rewards


def rewarded(*components: list[float]) -> Batch:
    return fixed_batch().with_(reward_components=torch.tensor(components).T.contiguous())


def naive_influences(batch: Batch) -> list[float]:
    """sum_j cos(g_k, g_j); group i % 3 holds trajectory i, and trajectory 5, which never spoke, is in none."""
    gradients = []
    for component in batch.reward_components.T.tolist():
        members = [[i for i in range(7) if i % 3 == group and i != 5] for group in range(3)]
        means = [sum(component[i] for i in group) / len(group) for group in members]
        gradients.append(head_gradient(batch, [component[i] - means[i % 3] for i in range(7)]).flatten().double())
    return [sum(float(g @ h / (g.norm() * h.norm())) for h in gradients) for g in gradients]


@pytest.mark.parametrize("tokens", [1, 16, 10**6])
def test_influences_are_cosines_of_the_rewards_gradients(tokens):
    batch = rewarded([1.0, 0, 1, 0, 1, 9, 0], [0.1, 0.7, 0.3, 0.2, 0.9, -9, 0.4], [5.0, 3, -2, 8, 1, 9, 0])
    expected = naive_influences(batch)
    found = influence(batch, untied_policy(tokens_per_micro_batch=tokens))
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 0.1


def test_influences_by_hand():
    """Equal up to scale and a constant per group: cosine 1; opposite: -1; a constant reward has no gradient: 0."""
    one = [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0]
    same = [3 * value + 10 for value in one]
    opposite = [-value for value in one]
    constant = [2.0] * 7
    cases = {(1.0, 1.0): [one], (2.0, 2.0): [one, same], (0.0, 0.0): [one, opposite], (1.0, 0.0): [one, constant]}
    for expected, components in cases.items():
        found = influence(rewarded(*components), untied_policy())
        assert found.tolist() == pytest.approx(list(expected)[: len(components)], abs=1e-5)


def test_a_step_measures_influences_where_a_piece_reads_their_weights():
    """After two steps with influences I and I': log w = (I + I') rate / mu, softmaxed."""
    batch = rewarded([1.0, 0, 1, 0, 1, 9, 0], [0.1, 0.7, 0.3, 0.2, 0.9, -9, 0.4])
    settings = {"controllers": {"reward_influence": {"learning_rate": 1e-4, "mu": 1e-3}}}
    rewards = {"rewards": {"math_verifier": {}, "test_gradients:second": {}}}
    pieces = GRPO | settings | rewards | {"reward_shaping": {"test_gradients:weighed": {}}}
    role = role_of(pieces, lm=tiny_lm(tied=False))
    assert role.controlled["reward_influence"].tolist() == [1.0]
    total = [0.0, 0.0]
    for _ in range(2):
        metrics = update(role, provide(role, batch), seed=0)
        found = [metrics["influence/0"], metrics["influence/1"]]
        total = [before + one for before, one in zip(total, found, strict=True)]
        role.control(metrics)
    assert total != pytest.approx([2 * one for one in naive_influences(batch)], abs=1e-4)  # the weights have moved
    powers = [math.exp(0.1 * one) for one in total]
    weights = [power / sum(powers) for power in powers]
    assert role.controlled["reward_influence"].tolist() == pytest.approx(weights, abs=1e-6)
    assert role.controller_metrics() == pytest.approx(
        {f"control/reward_influence/{k}": weight for k, weight in enumerate(weights)}
    )


def weighed(rewards: Tensor, reward_components: Tensor, reward_influence: Tensor, response_mask: Tensor) -> Tensor:
    """The reward with the weights of now, on each trajectory's first response token."""
    first = response_mask & (response_mask.cumsum(dim=1) == 1)
    return torch.where(first, (reward_components * reward_influence).sum(dim=1, keepdim=True), 0.0)


def second(completion: str) -> float:
    """A reward beside the first."""
    return 0.0

"""A critic of turns with a slow copy, against autograd over trajectories taken one by one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from by_hand import tokens_of
from torch import Tensor
from training_cases import (
    LAYOUTS,
    fixed_batch,
    identical,
    largest_difference,
    record_gradients,
    role_of,
    tiny_lm,
    turn_ids,
    value_head,
)

from llmrl.batch import Batch
from llmrl.train.provide import provide
from llmrl.train.roles import Role
from llmrl.train.step import update

MIX, GAMMA = 0.25, 0.9
ARCHER: dict[str, Any] = {
    "advantage": "twin_q",
    "policy_loss": "reinforce",
    "value_target": {"twin_td": {"gamma": GAMMA}},
    "value_loss": "twin_squared",
    "critic": {"outputs": 4, "target_mix": MIX},
}


def batch_of_turns() -> Batch:
    """The second trajectory is of an older policy, the fourth was cut."""
    versions, cut = torch.full((len(LAYOUTS),), 3), torch.zeros(len(LAYOUTS), dtype=torch.bool)
    versions[1], cut[3] = 2, True
    return fixed_batch().with_(turn_ids=turn_ids(), policy_version=versions, cut_short=cut)


def turns_of(layout: str) -> list[list[int]]:
    found: list[list[int]] = []
    for t in tokens_of(layout):
        if layout[t - 1] == "A" and found:
            found[-1].append(t)
        else:
            found.append([t])
    return found


def loss_by_hand(lm: Any, head: Any, slow: Any, slow_head: Any) -> Tensor:
    """The mean over the tokens with a target of the squared errors of all outputs, each trajectory alone."""
    batch, terms = batch_of_turns(), {}
    for row, layout in enumerate(LAYOUTS):
        tokens, turns = batch.token_ids[row : row + 1, : len(layout)], turns_of(layout)
        own = head(lm.model(input_ids=tokens).last_hidden_state[0])
        other = slow_head(slow.model(input_ids=tokens).last_hidden_state[0]).detach()
        for number, turn in enumerate(turns):
            first, last, final = turn[0], turn[-1], number == len(turns) - 1
            if not (final and batch.cut_short[row]):
                ahead = torch.zeros(2) if final else other[turns[number + 1][0] - 1, 2:]
                target = batch.rewards[row, turn].sum() + GAMMA * ahead
                terms[row, last] = (own[last, :2] - target).square().sum() / 2
            if batch.policy_version[row] == 3:
                of_v = (own[first - 1, 2:] - other[last, :2]).square().sum() / 2
                terms[row, first] = terms.get((row, first), torch.zeros(())) + of_v
    return torch.stack(list(terms.values())).mean()


def trained(role: Role) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The metrics of a step, and the critic's gradients."""
    assert role.critic and role.critic.learner
    seen = record_gradients(role.critic.learner.engine)
    metrics = update(role, provide(role, batch_of_turns(), steps_done=3), seed=0)
    return metrics, seen[-1]


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding_free"])
def test_two_updates_are_autograd_with_a_copy_that_follows_slowly(padding_free):
    lm, head = tiny_lm(seed=4), value_head(4)
    slow, slow_head = copy.deepcopy((lm, head))
    role = role_of(ARCHER, padding_free=padding_free)
    for _ in range(2):
        loss = loss_by_hand(lm, head, slow, slow_head)
        named = {f"backbone.{n}": p for n, p in lm.model.named_parameters()} | {
            f"head.{n}": p for n, p in head.named_parameters()
        }
        found = torch.autograd.grad(loss, list(named.values()))
        metrics, gradients = trained(role)
        assert metrics["value_loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
        assert largest_difference(gradients, dict(zip(named, found, strict=True))) < 1e-4
        assert role.critic and role.critic.learner and role.critic.slow
        weights = role.critic.learner.engine.trained_weights()
        with torch.no_grad():
            for name, parameter in named.items():
                parameter.copy_(weights[name])
            for mine, other in ((slow, lm), (slow_head, head)):
                for kept, moved in zip(mine.parameters(), other.parameters(), strict=True):
                    kept.lerp_(moved, MIX)
        kept = {f"backbone.{n}": p for n, p in slow.model.named_parameters()}
        assert largest_difference({n: role.critic.slow.kept[n] for n in kept}, kept) < 1e-6


def test_the_slow_copy_is_saved(tmp_path):
    first, second = role_of(ARCHER), role_of(ARCHER)
    trained(first)
    first.save(tmp_path)
    second.load(tmp_path)
    assert first.critic and second.critic and first.critic.slow and second.critic.slow
    assert identical(first.critic.slow.kept, second.critic.slow.kept)
    assert trained(first)[0] == trained(second)[0]

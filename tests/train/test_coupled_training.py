"""What reads whole updates, losses and token weights: cut into micro-batches it trains as if they were run at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import assert_close, log_p_of, naive_gradients, tokens_of
from torch import Tensor
from training_cases import GRPO, LAYOUTS, fixed_batch, largest_difference, record_gradients, role_of, tiny_lm

from llmrl.batch import Batch
from llmrl.train.provide import provide
from llmrl.train.roles import Role
from llmrl.train.step import Metrics, RoleStep, update

CASES: dict[str, dict[str, Any]] = {
    "pacs": {"policy_loss": "pacs"},
    "drpo": {"policy_loss": {"drpo": {"max_tokens": 16}}},
    "trajectory_balance": {"policy_loss": {"trajectory_balance": {"temperature": 0.5}}},
}
ENTROPY = {"regularizers": {"entropy_bonus": {"weight": 0.1}}}
each_loss = pytest.mark.parametrize("name", CASES)


def judged_batch() -> Batch:
    """Groups 0, 1, 2 interleave; two have both verdicts, one trajectory has none, another never spoke."""
    return fixed_batch().with_(correct=torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0, math.nan]))


def logprobs_of(lm: Any, batch: Batch) -> Tensor:
    """Every trajectory alone, with gradient: [N, T]."""
    rows = []
    for row, layout in enumerate(LAYOUTS):
        token_ids = batch.token_ids[row, : len(layout)].tolist()
        log_p, places = log_p_of(lm, token_ids), tokens_of(layout)
        values = [log_p[t - 1, token_ids[t]] if t in places else torch.zeros(()) for t in range(len(layout))]
        rows.append(torch.stack([*values, *[torch.zeros(())] * (batch.token_ids.shape[1] - len(layout))]))
    return torch.stack(rows)


def autograd(role: Role, lm: Any, batch: Batch, old_logprobs: Tensor, rows: Tensor | None = None) -> Any:
    """The loss of the rows at once, and its gradient."""
    picked = torch.arange(len(batch)) if rows is None else rows
    logprobs = logprobs_of(lm, batch)[picked]
    data = {name: value[picked] for name, value in batch.data.items()}
    data |= {"logprobs": logprobs, "old_logprobs": old_logprobs[picked]}
    data["ref_logprobs"] = logprobs_of(tiny_lm(seed=3), batch).detach()[picked]
    loss = role.algorithm.policy_loss(data).loss.sum()
    return loss.item(), naive_gradients(lm, loss)


def train(role: Role, *, seed: int = 0) -> tuple[Metrics, list[dict[str, Tensor]]]:
    gradients = record_gradients(role.learner.engine)
    return update(role, provide(role, judged_batch()), seed=seed), gradients


@each_loss
@pytest.mark.parametrize("tokens", [1, 16, 10**6])
def test_the_gradient_is_that_of_the_whole_at_once(name, tokens):
    role, lm, batch = role_of(CASES[name], tokens_per_micro_batch=tokens), tiny_lm(), judged_batch()
    loss, expected = autograd(role, lm, batch, logprobs_of(lm, batch).detach())
    metrics, gradients = train(role)
    assert_close(gradients[0], expected)
    assert metrics["policy_loss"] == pytest.approx(loss, abs=1e-5)


def test_penalties_are_added_token_by_token():
    role, lm, batch = role_of(CASES["pacs"] | ENTROPY), tiny_lm(), judged_batch()
    _, expected = autograd(role, lm, batch, logprobs_of(lm, batch).detach())
    entropies = []
    for row, layout in enumerate(LAYOUTS):
        log_p = log_p_of(lm, batch.token_ids[row, : len(layout)].tolist())
        entropies += [-(log_p[t - 1].exp() * log_p[t - 1]).sum() for t in tokens_of(layout)]
    penalty = naive_gradients(lm, -0.1 * torch.stack(entropies).mean())
    metrics, gradients = train(role)
    assert_close(gradients[0], {name: expected[name] + penalty[name] for name in expected})
    assert metrics["entropy_bonus"] == pytest.approx(-torch.stack(entropies).mean().item(), abs=1e-5)


@each_loss
def test_a_second_update_asks_the_policy_again(name):
    """Its loss is of the weights after the first, against the policy before it."""
    settings: dict[str, Any] = {"learning_rate": 1e-3}
    role, lm, batch = role_of(CASES[name], epochs_per_step=2, **settings), tiny_lm(), judged_batch()
    old = logprobs_of(lm, batch).detach()
    first_loss, first = autograd(role, lm, batch, old)
    once = role_of(CASES[name], **settings)
    train(once)
    assert largest_difference(dict(once.learner.engine.model.lm.named_parameters()), dict(lm.named_parameters())) > 5e-4
    second_loss, second = autograd(role, once.learner.engine.model.lm, batch, old)
    metrics, gradients = train(role)
    assert_close(gradients[0], first)
    assert_close(gradients[1], second)
    assert metrics["policy_loss"] == pytest.approx((first_loss + second_loss) / 2, rel=1e-4)
    assert abs(second_loss - first_loss) > 1e-4


@each_loss
def test_mini_batches_hold_whole_groups(name, monkeypatch):
    role, batch = role_of(CASES[name], updates_per_step=2, epochs_per_step=3), judged_batch()
    shares, parts = type(role.algorithm).shares, []

    def recording(self: Any, mini: Batch) -> Tensor:
        parts.append(mini.group_ids.tolist())
        return shares(self, mini)

    monkeypatch.setattr(type(role.algorithm), "shares", recording)
    _, gradients = train(role, seed=3)
    assert len(parts) == 6
    for part in parts:  # 7 trajectories: three in group 0, two in each of the others
        assert all(part.count(group) == (3 if group == 0 else 2) for group in part)
    for start in (0, 2, 4):
        assert sorted(parts[start] + parts[start + 1]) == sorted(batch.group_ids.tolist())
    assert len({tuple(part) for part in parts}) > 2  # shuffled anew

    rows = torch.cat([(batch.group_ids == group).nonzero()[:, 0] for group in dict.fromkeys(parts[0])])
    lm = tiny_lm()
    _, expected = autograd(role, lm, batch, logprobs_of(lm, batch).detach(), rows)
    assert_close(gradients[0], expected)


# token weights that read the current log-probabilities

COVARIANCE: dict[str, dict[str, Any]] = {
    "kl_cov": {"regularizers": {"absolute_log_ratio": {"weight": 1.0, "tokens": {"top_covariant": {"fraction": 0.3}}}}},
    "clip_cov": {"token_weights": {"drop_covariant": {"fraction": 0.3, "low": 0.0, "high": 9.0}}},
}


@pytest.mark.parametrize("tokens", [1, 10**6])
@pytest.mark.parametrize("name", COVARIANCE)
def test_every_update_chooses_by_the_current_policys_covariance(name, tokens):
    pieces: dict[str, Any] = GRPO | COVARIANCE[name]
    settings: dict[str, Any] = {"learning_rate": 5e-2, "tokens_per_micro_batch": tokens}
    role, once = role_of(pieces, epochs_per_step=2, **settings), role_of(pieces, **settings)
    algorithm, batch = role.algorithm, provide(role, fixed_batch())
    assert {"old_logprobs"} <= batch.data.keys()
    update(once, provide(once, fixed_batch()), seed=0)
    advantages, chosen, expected = algorithm.credit(batch).advantages, [], []
    for lm in (tiny_lm(), once.learner.engine.model.lm):
        logprobs = logprobs_of(lm, batch)
        chosen.append(algorithm.update_weights(batch, logprobs, advantages, {}))
        data = batch.data | {"logprobs": logprobs, "entropy": torch.zeros(()), "advantages": advantages}
        loss = algorithm.objective(data, algorithm.shares(batch), {}).loss.sum()
        expected.append(naive_gradients(lm, loss))
    [key] = chosen[0]
    assert not torch.equal(chosen[0][key], chosen[1][key])
    gradients = record_gradients(role.learner.engine)
    update(role, batch, seed=0)
    assert len(gradients) == 2
    for found, gradient in list(zip(gradients, expected, strict=True))[name == "kl_cov" :]:
        assert_close(found, gradient)  # |log ratio| has no gradient at 0, where its first update is


def test_what_is_chosen_of_an_update_is_a_share_of_its_tokens():
    """Half of the trajectories each: the shares are of their tokens, for any cut."""
    pieces: dict[str, Any] = GRPO | {"token_weights": {"top_covariant": {"fraction": 0.25}}}
    found = []
    for tokens in (1, 10**6):
        role = role_of(pieces, updates_per_step=2, tokens_per_micro_batch=tokens, learning_rate=1e-4)
        gradients = record_gradients(role.learner.engine)
        metrics = update(role, provide(role, fixed_batch()), seed=3)
        found.append(gradients)
        counts = [int(half.response_mask.sum()) for half in halves(role, seed=3)]
        kept = sum(max(1, round(0.25 * count)) for count in counts)
        assert metrics["token_weight"] == pytest.approx(kept / sum(counts))
    for one, other in zip(*found, strict=True):
        assert_close(one, other)


def halves(role: Role, seed: int) -> list[Batch]:
    """The trajectories of each optimizer step."""
    step = RoleStep.of(role, provide(role, fixed_batch()), seed=seed, max_mismatch=None, step=None)
    return [mini.batch for mini in step.minibatches(seed)]

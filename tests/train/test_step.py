"""update on a fixed batch, against sums written out trajectory by trajectory and token by token."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import pytest
import torch
from by_hand import SHOWN, assert_close, log_p_of, naive_gradients, tokens_of
from torch import Tensor
from training_cases import (
    GRPO,
    GSPO_KL,
    LAYOUTS,
    fixed_batch,
    identical,
    largest_difference,
    record_gradients,
    role_of,
    tiny_lm,
    tiny_policy,
    with_lora,
)

from llmrl.batch import Batch
from llmrl.errors import RunStopped
from llmrl.models.loading import DTYPES
from llmrl.train.provide import provide
from llmrl.train.roles import Role
from llmrl.train.step import update

KL_WEIGHT, ENTROPY_WEIGHT = 0.3, 0.1  # of GSPO_KL


def make_role(pieces: dict[str, Any] = GRPO, *, reference: Any = None, **settings: Any) -> Role:
    """A role of the cases; reference: its weights, where it has its own."""
    role = role_of(pieces, **settings)
    if reference is not None:
        role.reference = tiny_policy(reference).eval()
    return role


def train(role: Role, batch: Batch | None = None) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The metrics and the gradient of the last optimizer step."""
    gradients = record_gradients(role.learner.engine)
    metrics = update(role, provide(role, fixed_batch() if batch is None else batch), seed=0)
    return metrics, gradients[-1]


def assert_same_metrics(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


# a naive step


def outcome_advantages(batch: Batch) -> list[float]:
    """(R - mean) / (std + 1e-6) within the group, over those of its members that spoke."""
    outcomes = batch.rewards.sum(dim=1).tolist()
    advantages = []
    for row, layout in enumerate(LAYOUTS):
        members = [
            outcomes[i]
            for i in range(len(LAYOUTS))
            if batch.group_ids[i] == batch.group_ids[row] and tokens_of(LAYOUTS[i])
        ]
        mean = sum(members) / len(members)
        variance = sum((one - mean) ** 2 for one in members) / max(len(members) - 1, 1)
        advantages.append((outcomes[row] - mean) / (math.sqrt(variance) + 1e-6) if tokens_of(layout) else 0.0)
    return advantages


def test_grpo_gradient_is_the_double_loop():
    """Sum over all tokens of -A min(r A, clip(r) A) / tokens, with old_logprobs so far off that many are clipped."""
    batch = fixed_batch()
    generator = torch.Generator().manual_seed(1)
    lm, advantages = tiny_lm(), outcome_advantages(batch)
    old = torch.zeros(batch.rewards.shape)
    terms, clipped, count = [], 0, sum(len(tokens_of(layout)) for layout in LAYOUTS)
    for row, layout in enumerate(LAYOUTS):
        token_ids = batch.token_ids[row, : len(layout)].tolist()
        log_p = log_p_of(lm, token_ids)
        for t in tokens_of(layout):
            logprob = log_p[t - 1, token_ids[t]]
            old[row, t] = logprob.detach() + 0.3 * torch.randn((), generator=generator)
            ratio = (logprob - old[row, t]).exp()
            is_clipped = ratio.item() > 1.2 if advantages[row] > 0 else ratio.item() < 0.8 and advantages[row] < 0
            clipped += is_clipped
            bound = torch.tensor(1.2 if advantages[row] > 0 else 0.8)
            surrogate = (bound if is_clipped else ratio) * advantages[row]
            terms.append(-surrogate / count)
    expected = naive_gradients(lm, torch.stack(terms).sum())
    assert 3 < clipped < count - 3

    role = make_role(GRPO)
    gradients = record_gradients(role.learner.engine)
    metrics = update(role, batch.with_(old_logprobs=old), seed=0)
    assert_close(gradients[0], expected)
    assert metrics["loss"] == pytest.approx(torch.stack(terms).sum().item(), abs=1e-5)
    assert metrics["clip_fraction_low"] + metrics["clip_fraction_high"] == pytest.approx(clipped / count, abs=1e-6)
    assert metrics["advantage_max"] == pytest.approx(max(map(abs, advantages)), abs=1e-5)


def test_gspo_with_kl_and_entropy_gradient_is_the_double_loop():
    """The sequence's ratio on each of its tokens, plus weighted penalties; means per trajectory, then over those."""
    batch = fixed_batch()
    lm, ref, advantages = tiny_lm(), tiny_lm(seed=3), outcome_advantages(batch)
    generator = torch.Generator().manual_seed(1)
    old = torch.zeros(batch.rewards.shape)
    terms, kls = [], []
    speakers = sum(bool(tokens_of(layout)) for layout in LAYOUTS)
    for row, layout in enumerate(LAYOUTS):
        token_ids, places = batch.token_ids[row, : len(layout)].tolist(), tokens_of(layout)
        if not places:
            continue
        log_p, ref_log_p = log_p_of(lm, token_ids), log_p_of(ref, token_ids).detach()
        logprobs = torch.stack([log_p[t - 1, token_ids[t]] for t in places])
        old[row, places] = logprobs.detach() + 0.1 * torch.randn(len(places), generator=generator)
        mean_log_ratio = sum(logprobs[i] - old[row, t] for i, t in enumerate(places)) / len(places)
        sequence_ratio = mean_log_ratio.exp()  # GSPO's own form: its gradient is that of the token form summed up
        surrogate = torch.minimum(sequence_ratio * advantages[row], sequence_ratio.clamp(0.8, 1.2) * advantages[row])
        penalties = []
        for t in places:
            distance = log_p[t - 1, token_ids[t]] - ref_log_p[t - 1, token_ids[t]]
            kl = (-distance).exp() - 1 + distance
            kls.append(kl.item())
            entropy = -(log_p[t - 1].exp() * log_p[t - 1]).sum()
            penalties.append(KL_WEIGHT * kl - ENTROPY_WEIGHT * entropy)
        terms.append((-surrogate + torch.stack(penalties).mean()) / speakers)
    expected = naive_gradients(lm, torch.stack(terms).sum())

    role = make_role(GSPO_KL)
    gradients = record_gradients(role.learner.engine)
    batch = batch.with_(old_logprobs=old, ref_logprobs=provide(role, batch).ref_logprobs)
    metrics = update(role, batch, seed=0)
    assert_close(gradients[0], expected)
    assert metrics["loss"] == pytest.approx(torch.stack(terms).sum().item(), abs=1e-5)
    assert metrics["kl_k3"] == pytest.approx(sum(kls) / len(kls), abs=1e-5)


# identities


def padded(batch: Batch, extra: int) -> Batch:
    def wider(value: Tensor) -> Tensor:
        return torch.cat([value, torch.zeros(len(batch), extra, dtype=value.dtype)], dim=1)

    return batch.with_(**{name: wider(value) for name, value in batch.data.items() if value.dim() == 2})


ORDER = torch.tensor([5, 2, 6, 0, 3, 1, 4])
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "wider padding": (lambda batch: padded(batch, 9), {}),
    "another order": (lambda batch: batch.rows(ORDER), {}),
    "one trajectory at a time": (lambda batch: batch, {"tokens_per_micro_batch": 1}),
    "all at once": (lambda batch: batch, {"tokens_per_micro_batch": 10**6}),
    "padding_free": (lambda batch: batch, {"padding_free": True}),
    "padding_free, all at once": (lambda batch: batch, {"padding_free": True, "tokens_per_micro_batch": 10**6}),
}


@pytest.mark.parametrize("pieces", [GRPO, GSPO_KL], ids=["grpo", "gspo_kl"])
@pytest.mark.parametrize("change", CHANGES)
def test_how_the_batch_is_laid_out_changes_nothing(change, pieces):
    lay_out, settings = CHANGES[change]
    metrics, gradients = train(make_role(pieces))
    other_metrics, other_gradients = train(make_role(pieces, **settings), lay_out(fixed_batch()))
    assert_close(other_gradients, gradients)
    assert_same_metrics(other_metrics, metrics)


def test_trajectories_without_response_tokens_change_nothing():
    speaking = torch.tensor([row for row, layout in enumerate(LAYOUTS) if tokens_of(layout)])
    _, gradients = train(make_role(GSPO_KL))
    _, without = train(make_role(GSPO_KL), fixed_batch().rows(speaking))
    assert_close(without, gradients)


def test_the_ratio_of_the_only_update_is_exactly_one():
    metrics, _ = train(make_role(GRPO))
    assert metrics["ratio"] == 1.0
    assert metrics["clip_fraction_low"] == metrics["clip_fraction_high"] == 0.0


@pytest.mark.parametrize("pieces", [GRPO, GSPO_KL], ids=["grpo", "gspo_kl"])
def test_old_logprobs_of_a_pass_of_their_own_give_the_same_gradient(pieces):
    """One update takes them from its own forward pass; several, or an advantage that reads them, measure first."""
    lazy, eager = make_role(pieces), make_role(pieces)
    batch = provide(lazy, fixed_batch())
    assert "old_logprobs" not in batch
    measured = batch.with_(old_logprobs=provide(make_role(pieces, epochs_per_step=2), fixed_batch()).old_logprobs)
    gradients, others = record_gradients(lazy.learner.engine), record_gradients(eager.learner.engine)
    metrics = update(lazy, batch, seed=0)
    assert_same_metrics(update(eager, measured, seed=0), metrics)
    assert_close(others[0], gradients[0])


def test_old_logprobs_are_measured_without_the_adapters_dropout():
    role = make_role(GRPO, lm=with_lora(tiny_lm(), dropout=0.5), epochs_per_step=2)
    still = make_role(GRPO, lm=with_lora(tiny_lm()), epochs_per_step=2)
    found, expected = (provide(one, fixed_batch()).old_logprobs for one in (role, still))
    assert torch.equal(found, expected)
    assert role.learner.engine.model.training and role.learner.engine.model.lm.training


def test_trainer_and_sampler_are_compared_without_the_adapters_dropout():
    """A sampler that says exactly what the model says agrees with it, also where an update draws dropout."""
    role, still = (make_role(GRPO, lm=with_lora(tiny_lm(), dropout=d)) for d in (0.5, 0.0))
    sampled = fixed_batch().with_(rollout_logprobs=still.learner.measure(fixed_batch(), "logprobs")["logprobs"])
    gradients, others = record_gradients(role.learner.engine), record_gradients(still.learner.engine)
    metrics, expected = (update(one, provide(one, sampled), seed=0, max_mismatch=1e-5) for one in (role, still))
    assert metrics["mismatch_mean"] == expected["mismatch_mean"] < 1e-6
    assert metrics["ratio"] == expected["ratio"] == 1.0
    assert largest_difference(gradients[0], others[0]) > 1e-2  # dropout was drawn in the update


def test_provided_logprobs_are_those_of_the_double_loop():
    batch = provide(make_role(GSPO_KL, epochs_per_step=2), fixed_batch())
    for lm, found in ((tiny_lm(), batch.old_logprobs), (tiny_lm(seed=3), batch.ref_logprobs)):
        expected = torch.zeros_like(found)
        for row, layout in enumerate(LAYOUTS):
            token_ids = batch.token_ids[row, : len(layout)].tolist()
            for t in tokens_of(layout):
                expected[row, t] = log_p_of(lm, token_ids)[t - 1, token_ids[t]].detach()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0.0)


# several optimizer steps


def test_epochs_go_over_the_whole_batch_with_the_old_policy_fixed():
    """Two epochs by hand: the second pass compares with the policy before the first."""
    role = make_role(GRPO, epochs_per_step=2)
    gradients = record_gradients(role.learner.engine)
    metrics = update(role, provide(role, fixed_batch()), seed=0)

    by_hand = make_role(GRPO)
    seen = record_gradients(by_hand.learner.engine)
    batch = fixed_batch().with_(old_logprobs=provide(make_role(GRPO, epochs_per_step=2), fixed_batch()).old_logprobs)
    passes = [update(by_hand, batch, seed=0) for _ in range(2)]
    assert len(gradients) == 2
    assert_close(gradients[0], seen[0])
    assert_close(gradients[1], seen[1])
    assert passes[1]["ratio"] != pytest.approx(1.0, abs=1e-4)
    for name in ("loss", "ratio", "grad_norm", "clip_fraction_high"):
        assert metrics[name] == pytest.approx((passes[0][name] + passes[1][name]) / 2, rel=1e-4, abs=1e-5)


def test_updates_cut_the_batch_into_parts_that_are_shuffled_every_epoch(monkeypatch):
    """Each part is normalised by its own tokens; credit is from the whole batch, before it was cut."""
    role = make_role(GRPO, updates_per_step=3, epochs_per_step=2)
    parts: list[list[int]] = []
    batch = fixed_batch()
    whole = role.algorithm.credit(batch).advantages
    shares = type(role.algorithm).shares

    def recording(self: Any, mini: Batch) -> Tensor:
        parts.append([int((batch.token_ids[:, :2] == row[:2]).all(dim=1).nonzero()[0]) for row in mini.token_ids])
        return shares(self, mini)

    monkeypatch.setattr(type(role.algorithm), "shares", recording)
    gradients = record_gradients(role.learner.engine)
    provided = provide(role, batch)
    update(role, provided, seed=4)
    assert [len(part) for part in parts] == [3, 2, 2, 3, 2, 2]
    assert sorted(chain(*parts[:3])) == sorted(chain(*parts[3:])) == list(range(7))
    assert parts[:3] != parts[3:]

    lm = tiny_lm()
    rows, terms = parts[0], []
    count = sum(len(tokens_of(LAYOUTS[row])) for row in rows)
    for row in rows:
        token_ids = batch.token_ids[row, : len(LAYOUTS[row])].tolist()
        log_p = log_p_of(lm, token_ids)
        for t in tokens_of(LAYOUTS[row]):  # at ratio 1 the gradient is that of -A log p
            terms.append(-float(whole[row, t]) * log_p[t - 1, token_ids[t]] / count)
    assert_close(gradients[0], naive_gradients(lm, torch.stack(terms).sum()))


def test_the_seed_decides_the_shuffle():
    def parts(seed: int) -> dict[str, Tensor]:
        role = make_role(GRPO, updates_per_step=3)
        update(role, provide(role, fixed_batch()), seed=seed)
        return {name: p.detach().clone() for name, p in role.learner.engine.model.lm.named_parameters()}

    assert identical(parts(1), parts(1))
    assert not identical(parts(1), parts(2))


# what a step refuses


@pytest.mark.parametrize("updates", [1, 2], ids=["one update", "two updates"])
def test_mismatch_stops_before_the_weights_change(updates):
    role = make_role(GRPO, updates_per_step=updates)
    provided = provide(role, fixed_batch())
    before = {name: p.detach().clone() for name, p in role.learner.engine.model.lm.named_parameters()}
    with pytest.raises(RunStopped, match=r"trainer and sampler disagree: .* is over rollout.max_mismatch 1.00e-03"):
        update(role, provided, seed=0, max_mismatch=1e-3)
    assert identical(dict(role.learner.engine.model.lm.named_parameters()), before)


def test_mismatch_is_measured_against_what_the_sampler_said():
    """Rollout log-probabilities 0.25 below the trainer's on every token: d = 0.25, k3 = e^d - 1 - d."""
    role = make_role(GRPO)
    exact = provide(make_role(GRPO, epochs_per_step=2), fixed_batch()).old_logprobs
    batch = fixed_batch().with_(rollout_logprobs=torch.where(fixed_batch().response_mask, exact - 0.25, 0.0))
    metrics = update(role, provide(role, batch), seed=0, max_mismatch=0.26)
    assert metrics["mismatch_mean"] == pytest.approx(0.25, abs=1e-5)
    assert metrics["mismatch_max"] == pytest.approx(0.25, abs=1e-5)
    assert metrics["mismatch_k3"] == pytest.approx(math.exp(0.25) - 1.25, abs=1e-5)


def test_a_reward_that_is_not_a_number_stops_before_the_weights_change():
    role = make_role(GRPO)
    before = {name: p.detach().clone() for name, p in role.learner.engine.model.lm.named_parameters()}
    batch = fixed_batch()
    batch.rewards[2, 4] = math.nan
    with pytest.raises(RunStopped, match="weights are untouched"):
        update(role, provide(role, batch), seed=0)
    assert identical(dict(role.learner.engine.model.lm.named_parameters()), before)


# the reference


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_kl_to_an_equal_reference_is_zero(dtype):
    reference = tiny_lm()
    for parameter in reference.parameters():
        parameter.data = parameter.data.to(DTYPES[dtype])  # as it is loaded for a run
    metrics, _ = train(make_role(GSPO_KL, reference=reference, dtype=dtype))
    assert metrics["kl_k3"] == 0.0


def test_the_reference_of_lora_is_its_base():
    """As a frozen model of its own, and as this model with its adapter switched off."""
    shared = make_role(GSPO_KL, lm=with_lora(tiny_lm()))
    assert shared.reference is None
    own = make_role(GSPO_KL, lm=with_lora(tiny_lm()))
    own.reference = tiny_policy(tiny_lm()).eval().requires_grad_(False)
    metrics, gradients = train(shared)
    other_metrics, other_gradients = train(own)
    assert metrics["kl_k3"] > 1e-3
    assert_same_metrics(metrics, other_metrics)
    assert_close(gradients, other_gradients)
    assert gradients and all("lora_" in name for name in gradients)


def test_demonstrations_are_maximum_likelihood():
    """No advantage, no ratio, no sampler: the mean of -log p over the batch's tokens."""
    role = make_role({"policy_loss": "nll", "learn_from": "demonstrations", "data": SHOWN})
    batch = fixed_batch().with_(rollout_logprobs=torch.zeros(7, 13))
    metrics, gradients = train(role, batch)
    lm, terms = tiny_lm(), []
    for row, layout in enumerate(LAYOUTS):
        token_ids = batch.token_ids[row, : len(layout)].tolist()
        terms += [-log_p_of(lm, token_ids)[t - 1, token_ids[t]] for t in tokens_of(layout)]
    assert_close(gradients, naive_gradients(lm, torch.stack(terms).mean()))
    assert metrics["loss"] == pytest.approx(torch.stack(terms).mean().item(), abs=1e-5)
    assert "mismatch_mean" not in metrics

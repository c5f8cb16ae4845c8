"""Preference losses on a fixed batch, against sums written out pair by pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_close, log_p_of, naive_gradients, tokens_of
from preference_cases import DPO, OFFLINE, preference_batch
from torch.nn.functional import logsigmoid
from training_cases import LAYOUTS, record_gradients, role_of, tiny_lm

from llmrl.marks import compares_all
from llmrl.train.provide import provide
from llmrl.train.step import update

PAIRS = [(2, 0, 1 / 3), (2, 1, 1 / 3), (0, 1, 1 / 3), (3, 4, 1.0)]
"""(chosen, rejected, part of its group): row 5 never spoke, and row 6 is alone."""


def naive(lm: Any, loss: Any) -> torch.Tensor:
    """The mean over groups of `loss` of each pair's log ratios."""
    batch, reference = preference_batch(), tiny_lm(seed=3)

    def log_ratio(row: int) -> torch.Tensor:
        token_ids = batch.token_ids[row, : len(LAYOUTS[row])].tolist()
        own, other = log_p_of(lm, token_ids), log_p_of(reference, token_ids).detach()
        return torch.stack([(own - other)[t - 1, token_ids[t]] for t in tokens_of(LAYOUTS[row])]).sum()

    return sum(part / 2 * loss(log_ratio(chosen), log_ratio(rejected)) for chosen, rejected, part in PAIRS)


def logistic(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    return -logsigmoid(0.4 * (chosen - rejected))


@pytest.mark.parametrize("settings", [{}, {"tokens_per_micro_batch": 16}], ids=["whole", "a group at a time"])
@pytest.mark.parametrize("padding_free", [True, False])
def test_dpo_is_the_loop_over_pairs(settings, padding_free):
    role = role_of(DPO, padding_free=padding_free, **settings)
    gradients = record_gradients(role.learner.engine)
    metrics = update(role, provide(role, preference_batch()), seed=0)
    lm = tiny_lm()
    expected = naive(lm, logistic)
    assert_close(gradients[-1], naive_gradients(lm, expected))
    assert metrics["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert metrics["preference_loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert metrics["preference_accuracy"] in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_before_the_first_update_no_completion_is_preferred():
    role = role_of(DPO)
    role.reference.load_state_dict(role.learner.engine.model.state_dict())
    metrics = update(role, provide(role, preference_batch()), seed=0)
    assert metrics["preference_loss"] == pytest.approx(0.693147, abs=1e-6)  # ln 2
    assert (metrics["preference_margin"], metrics["preference_ties"], metrics["preference_accuracy"]) == (0, 1, 0.5)


def in_one(chosen_log_ratios: Any, rejected_log_ratios: Any) -> Any:
    """The same loss, as if it compared pairs with each other."""
    return logistic(chosen_log_ratios, rejected_log_ratios)


def test_a_loss_over_the_whole_update_has_the_same_gradient_in_any_micro_batches():
    own = {"preference_loss": {f"{__name__}:in_one": {"weight": 1.0}}}
    compares_all(in_one)
    role = role_of(OFFLINE | own, tokens_per_micro_batch=16)
    assert role.algorithm.compares_all
    gradients = record_gradients(role.learner.engine)
    metrics = update(role, provide(role, preference_batch()), seed=0)
    lm = tiny_lm()
    expected = naive(lm, logistic)
    assert_close(gradients[-1], naive_gradients(lm, expected))
    assert metrics["preference_loss"] == pytest.approx(expected.item(), abs=1e-5)


def test_a_loss_of_tokens_is_added():
    lm, batch = tiny_lm(), preference_batch()
    role = role_of(DPO | {"policy_loss": "nll", "reduce": "token_mean"})
    gradients = record_gradients(role.learner.engine)
    metrics = update(role, provide(role, batch), seed=0)
    terms = []
    for row, layout in enumerate(LAYOUTS):
        token_ids = batch.token_ids[row, : len(layout)].tolist()
        terms += [-log_p_of(lm, token_ids)[t - 1, token_ids[t]] for t in tokens_of(layout)]
    expected = naive(lm, logistic) + torch.stack(terms).mean()
    assert_close(gradients[-1], naive_gradients(lm, expected))
    assert metrics["loss"] == pytest.approx(expected.item(), abs=1e-5)

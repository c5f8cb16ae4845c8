"""Reward models in training, against sums written out pair by pair."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import assert_close, naive_gradients, tokens_of
from preference_cases import OFFLINE, REWARD_MODEL, preference_batch
from test_preferences import PAIRS
from torch.nn.functional import logsigmoid
from training_cases import LAYOUTS, make_recipe, record_gradients, role_of, tiny_scorer

from llmrl.errors import RecipeError
from llmrl.marks import compares_all
from llmrl.resolve import resolve_pieces
from llmrl.train.provide import provide
from llmrl.train.step import update


def score_of(model: Any, row: int) -> torch.Tensor:
    """The score at the row's last response token, by transformers' own forward."""
    token_ids = preference_batch().token_ids[row : row + 1, : tokens_of(LAYOUTS[row])[-1] + 1]
    return model(input_ids=token_ids).logits[0, 0]


def naive(model: Any) -> torch.Tensor:
    """The mean over groups of each pair's loss."""

    def loss(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        return 0.1 * (chosen + rejected).square() - logsigmoid(chosen - rejected)

    return sum(part / 2 * loss(score_of(model, chosen), score_of(model, rejected)) for chosen, rejected, part in PAIRS)


@pytest.mark.parametrize("settings", [{}, {"tokens_per_micro_batch": 16}], ids=["whole", "a group at a time"])
@pytest.mark.parametrize("padding_free", [True, False])
def test_a_reward_model_learns_the_mean_over_pairs(settings, padding_free):
    role = role_of(REWARD_MODEL, padding_free=padding_free, **settings)
    gradients = record_gradients(role.learner.engine)
    metrics = update(role, provide(role, preference_batch()), seed=0)
    model = tiny_scorer()
    expected = naive(model)
    assert_close(gradients[-1], naive_gradients(model, expected))
    assert metrics["loss"] == pytest.approx(expected.item(), abs=1e-5)
    scores = {row: float(score_of(model, row).detach()) for row in range(5)}
    assert metrics["chosen_scores"] == pytest.approx(sum(scores[c] for c, _, _ in PAIRS) / 4, abs=1e-5)
    assert metrics["preference_margin"] == pytest.approx(sum(scores[c] - scores[r] for c, r, _ in PAIRS) / 4, abs=1e-5)
    assert metrics["preference_accuracy"] == sum(scores[c] > scores[r] for c, r, _ in PAIRS) / 4


def test_a_constant_model_is_right_half_the_time():
    role = role_of(REWARD_MODEL)
    role.learner.engine.model.inner.score.weight.data.zero_()
    metrics = update(role, provide(role, preference_batch()), seed=0)
    assert (metrics["preference_accuracy"], metrics["preference_ties"], metrics["preference_margin"]) == (0.5, 1, 0)


def in_one(chosen_scores: Any, rejected_scores: Any) -> Any:
    """The same loss, as if it compared pairs with each other."""
    return 0.1 * (chosen_scores + rejected_scores).square() - logsigmoid(chosen_scores - rejected_scores)


def test_a_loss_over_the_whole_update_has_the_same_gradient_in_any_micro_batches():
    compares_all(in_one)
    role = role_of(OFFLINE | {"preference_loss": {f"{__name__}:in_one": {"weight": 1.0}}}, tokens_per_micro_batch=16)
    gradients = record_gradients(role.learner.engine)
    update(role, provide(role, preference_batch()), seed=0)
    model = tiny_scorer()
    assert_close(gradients[-1], naive_gradients(model, naive(model)))


def test_in_bf16_scores_are_computed_in_fp32():
    role = role_of(REWARD_MODEL, dtype="bf16")
    scores = role.learner.measure(preference_batch(), "scores")["scores"]
    assert scores.dtype == torch.float32 and role.learner.engine.model.inner.score.weight.dtype == torch.bfloat16
    update(role, provide(role, preference_batch()), seed=0)


@pytest.mark.parametrize(
    "change, fault",
    [
        ({"learn_from": "rollouts"}, "samples from it; use preferences"),
        ({"regularizers": {"kl_k3": {"weight": 0.1}}}, "a piece reads logprobs, which only a policy gives"),
        ({"policy_loss": "nll"}, "a piece reads logprobs, which only a policy gives; train them in two stages"),
        ({"preference_loss": {"dpo": {"weight": 1.0}}, "model": {"path": "m", "heads": 2}}, "no piece reads scores"),
    ],
)
def test_a_policy_and_a_reward_model_are_not_trained_at_once(change, fault):
    with pytest.raises(RecipeError, match=fault):
        resolve_pieces(make_recipe(**(REWARD_MODEL | change)))


NAN = math.nan
COMPONENTS = torch.tensor([[0.5, 1.0], [NAN, 0.0], [2.0, NAN], [1.0, 1.0], [0.0, 2.0], [9.0, 9.0], [1.0, 0.0]])


def test_each_head_learns_its_component_where_it_is_known():
    """The mean over the six completions that have tokens; the row without tokens has none."""
    data = {"train": {"path": "unused", "completion": "good", "components": ["a", "b"]}}
    pieces = {"learn_from": "preferences", "data": data, "model": {"path": "unused", "heads": 2}}
    role = role_of(pieces | {"preference_loss": {"component_regression": {"weight": 1.0}}, "rewards": {}})
    gradients = record_gradients(role.learner.engine)
    batch = preference_batch().with_(reward_components=COMPONENTS)
    metrics = update(role, provide(role, batch), seed=0)
    model = tiny_scorer(2)
    expected = torch.zeros(())
    for row in (0, 1, 2, 3, 4, 6):
        token_ids = batch.token_ids[row : row + 1, : tokens_of(LAYOUTS[row])[-1] + 1]
        known = COMPONENTS[row].isfinite()
        expected = expected + (model(input_ids=token_ids).logits[0] - COMPONENTS[row])[known].square().sum() / 6
    assert_close(gradients[-1], naive_gradients(model, expected))
    assert metrics["loss"] == pytest.approx(expected.item(), rel=1e-5)

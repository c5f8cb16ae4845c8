"""Process reward models in training, against sums written out step by step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import assert_close, naive_gradients, tokens_of
from torch.nn.functional import binary_cross_entropy_with_logits
from training_cases import LAYOUTS, fixed_batch, make_recipe, record_gradients, role_of, tiny_scorer

from llmrl.batch import Batch
from llmrl.data.written import Span, Written
from llmrl.errors import RecipeError
from llmrl.resolve import resolve_pieces
from llmrl.train.held_out import HeldOut, compare
from llmrl.train.provide import provide
from llmrl.train.sources import compared_group
from llmrl.train.step import update
from llmrl.types import Prompt

DATA = {"train": {"path": "unused", "steps": "steps", "step_labels": "labels"}}
STEPS = {"learn_from": "step_labels", "data": DATA, "rollout": {"group_size": 1}}
PROCESS = STEPS | {"preference_loss": {"step_bce": {"weight": 1.0}}}
LABELS = {0: {3: 1.0, 5: 0.0}, 1: {2: 0.25, 8: 1.0}, 2: {4: 1.0}, 3: {5: 0.0}, 4: {1: 1.0, 4: 1.0, 12: 0.0}}
"""The labelled tokens of the fixed batch's rows; row 6 has tokens and no label, row 5 has no tokens."""


def labelled_batch() -> Batch:
    """The fixed batch as solutions that nobody sampled."""
    batch = fixed_batch()
    labels = torch.full(batch.token_ids.shape, math.nan)
    for row, places in LABELS.items():
        for place, label in places.items():
            assert place in tokens_of(LAYOUTS[row])
            labels[row, place] = label
    zeros = torch.zeros_like(labels)
    return batch.with_(turn_rewards=labels, rewards=labels.nan_to_num(), rollout_logprobs=zeros)


def scores_of(model: Any, row: int) -> torch.Tensor:
    """The scores at the row's tokens, by transformers' own forward."""
    return model(input_ids=labelled_batch().token_ids[row : row + 1, : len(LAYOUTS[row])]).logits[0, :, 0]


@pytest.mark.parametrize("settings", [{}, {"tokens_per_micro_batch": 16}], ids=["whole", "a row at a time"])
@pytest.mark.parametrize("padding_free", [True, False])
def test_a_process_reward_model_learns_the_mean_over_solutions_of_its_steps(settings, padding_free):
    role = role_of(PROCESS, padding_free=padding_free, **settings)
    gradients = record_gradients(role.learner.engine)
    metrics = update(role, provide(role, labelled_batch()), seed=0)
    model = tiny_scorer(of_tokens=True).eval()
    expected = torch.zeros(())
    for row, places in LABELS.items():
        of_row = scores_of(model, row)[list(places)]
        expected = expected + binary_cross_entropy_with_logits(of_row, torch.tensor(list(places.values()))) / 6
    assert_close(gradients[-1], naive_gradients(model, expected))  # six completions have tokens
    assert metrics["loss"] == pytest.approx(expected.item(), abs=1e-5)
    says = {row: scores_of(model, row)[list(places)] > 0 for row, places in LABELS.items()}
    right = {row: [label >= 0.5 for label in places.values()] for row, places in LABELS.items()}
    agree = [a == b for row in LABELS for a, b in zip(says[row].tolist(), right[row], strict=True)]
    assert metrics["step_accuracy"] == pytest.approx(sum(agree) / len(agree)) and 0 < sum(agree) < len(agree)
    first = {row: next((n for n, one in enumerate(found) if not one), -1) for row, found in right.items()}
    said = {row: next((n for n, one in enumerate(found.tolist()) if not one), -1) for row, found in says.items()}
    wrong = [row for row in LABELS if first[row] >= 0]
    accuracy = sum(first[row] == said[row] for row in wrong) / len(wrong)
    assert metrics["first_error_accuracy"] == pytest.approx(accuracy) and len(wrong) == 4
    assert metrics["error_free_accuracy"] == float(said[2] == -1)
    assert "preference_accuracy" not in metrics and 0 <= metrics["first_error_f1"] <= 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"learn_from": "preferences"}, "preferences samples and scores nothing, but a piece reads turn_rewards"),
        ({"data": {"train": {"path": "unused", "prompt": "q"}}}, "learn_from: step_labels needs data.train.steps"),
        ({"preference_loss": {"bradley_terry": {"weight": 1.0}}}, "step_labels gives completions no rewards, by which"),
    ],
)
def test_losses_of_steps_and_sources_of_steps_need_each_other(change, fault):
    with pytest.raises(RecipeError, match=fault):
        resolve_pieces(make_recipe(**(PROCESS | change)))


def test_held_out_solutions_are_judged_step_by_step():
    """Two categories of one solution each, and both together; scores by transformers' own forward."""
    role, model = role_of(PROCESS), tiny_scorer(of_tokens=True).eval()
    rows = {"a": ([5, 6], [[7, 8], [9]], [1.0, 0.0]), "b": ([4], [[3, 2], [1, 8, 9]], [1.0, 1.0])}
    groups, agreed, found_first = [], {}, {}
    for name, (asked, steps, labels) in rows.items():
        prompt = Prompt(name, tuple(asked), "", {})
        spans = [Span(step, reward=label) for step, label in zip(steps, labels, strict=True)]
        groups.append(compared_group(prompt, [Written(spans)], "actor"))
        scores = model(input_ids=torch.tensor([[*asked, *steps[0], *steps[1]]])).logits[0, :, 0]
        ends = [len(asked) + len(steps[0]) - 1, len(asked) + len(steps[0]) + len(steps[1]) - 1]
        said = [bool(scores[end] > 0) for end in ends]
        agreed[name] = sum(one == (label > 0.5) for one, label in zip(said, labels, strict=True)) / 2
        wanted = [label > 0.5 for label in labels]
        found_first[name] = float([*said, False].index(False) == [*wanted, False].index(False))
    metrics = compare(role, HeldOut(groups, {"a": "easy"}, at_once=1))
    assert metrics["eval/step_accuracy"] == pytest.approx((agreed["a"] + agreed["b"]) / 2)
    assert metrics["eval/easy/step_accuracy"] == agreed["a"]
    assert metrics["eval/first_error_accuracy"] == metrics["eval/easy/first_error_accuracy"] == found_first["a"]
    assert metrics["eval/error_free_accuracy"] == found_first["b"] and "eval/easy/error_free_accuracy" not in metrics
    both = found_first["a"] * found_first["b"]
    assert metrics["eval/first_error_f1"] == both and "eval/easy/first_error_f1" not in metrics

"""Verdicts on steps, with ProcessBench's measure of the first error, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from llmrl.ops.shared.steps import first_error_f1, first_error_shares, first_errors, step_correct, step_verdicts

NAN = math.nan


def test_the_first_error_is_found_at_its_own_step_or_not_at_all():
    """Labels and scores of five solutions; the model says right where the score is above 0.

    labels 1 1 0    says 1 1 0     the error is found
    labels 1 0 -    says 0 0 1     an earlier step is called wrong
    labels 1 0 -    says 1 1 0     no labelled step is called wrong, and the step after it has no label
    labels 1 1 .9   says 1 1 1     right throughout
    labels - - -                   no label: no solution
    errors: 1 of 3 found; without one: 1 of 1; F1 = 2 (1/3) 1 / (4/3) = 1/2; steps: 3 + 1 + 1 + 3 of 3 + 2 + 2 + 3
    """
    labels = torch.tensor([[1, 1, 0], [1, 0, NAN], [1, 0, NAN], [1, 1, 0.9], [NAN, NAN, NAN]])
    scores = torch.tensor([[1, 1, -1], [-1, -1, 1], [1, 1, -1], [1, 2, 3], [-1, -1, -1.0]])
    verdicts = step_verdicts(scores[..., None], labels)
    assert first_errors(verdicts.right, verdicts.labelled).tolist() == [2, 1, 1, -1, -1]
    shares = first_error_shares(verdicts)
    assert shares == {"first_error_accuracy": (1.0, 3.0), "error_free_accuracy": (1.0, 1.0)}
    assert step_correct(verdicts)[verdicts.labelled].sum() == 8 and verdicts.labelled.sum() == 10
    assert first_error_f1({name: part / whole for name, (part, whole) in shares.items()}) == {
        "first_error_f1": pytest.approx(0.5)
    }


def test_several_classes_of_which_the_first_is_wrong():
    scores = torch.tensor([[[1.0, 0, 0], [0, 0, 2], [0, 1, 0]]])
    verdicts = step_verdicts(scores, torch.tensor([[0.0, 2, 0]]))
    assert verdicts.said_right.tolist() == [[False, True, True]] and verdicts.right.tolist() == [[False, True, False]]


def test_without_solutions_of_both_kinds_there_is_no_f1():
    shares = first_error_shares(step_verdicts(torch.ones(1, 2, 1), torch.tensor([[1.0, 1]])))
    assert shares == {"error_free_accuracy": (1.0, 1.0)}
    assert first_error_f1({"error_free_accuracy": 1.0}) == {}
    assert first_error_f1({"error_free_accuracy": 0.0, "first_error_accuracy": 0.0}) == {"first_error_f1": 0.0}

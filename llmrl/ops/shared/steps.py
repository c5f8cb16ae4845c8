"""The verdicts of a reward model on the steps of solutions, against their labels."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class StepVerdicts(NamedTuple):
    """At the last tokens of labelled steps: whether there is a label, whether the step is right, and whether the model
    says so: [N, T] bool each."""

    labelled: Tensor
    right: Tensor
    said_right: Tensor


def step_verdicts(scores: Tensor, turn_rewards: Tensor) -> StepVerdicts:
    """The verdicts of scores [N, T, H] on labels [N, T], which are nan where there is none.

    One head says right with a score above 0, several by the largest one, of which the first alone is wrong; a label of
    one head is right from 0.5 on.
    """
    labelled = turn_rewards.isfinite()
    one = scores.shape[-1] == 1
    said = scores[..., 0] > 0 if one else scores.argmax(dim=-1) > 0
    right = turn_rewards >= 0.5
    return StepVerdicts(labelled, labelled & right, labelled & said)


def step_correct(verdicts: StepVerdicts) -> Tensor:
    """1 where label and model agree, else 0: [N, T] float."""
    return (verdicts.right == verdicts.said_right).float()


def first_errors(right: Tensor, labelled: Tensor) -> Tensor:
    """The place of each row's first labelled step that is not right, -1 if all are: [N] int64."""
    wrong = labelled & ~right
    return torch.where(wrong.any(dim=1), wrong.int().argmax(dim=1), -1)


def first_error_shares(verdicts: StepVerdicts) -> dict[str, tuple[float, float]]:
    """How many solutions with an error have it found at its own step, and how many without one are called right, each
    with its whole; no share of nothing. Source: ProcessBench, arXiv 2412.06559."""
    rows = verdicts.labelled.any(dim=1)
    true = first_errors(verdicts.right, verdicts.labelled)[rows]
    found = first_errors(verdicts.said_right, verdicts.labelled)[rows]
    parts = {"first_error_accuracy": true >= 0, "error_free_accuracy": true < 0}
    counts = {name: (float((found == true)[part].sum()), float(part.sum())) for name, part in parts.items()}
    return {name: share for name, share in counts.items() if share[1]}


def harmonic_mean(one: Any, other: Any) -> Any:
    """2 a b / (a + b) of two shares, or of arrays of shares; 0 where both are 0."""
    return 2 * one * other / (one + other + (one + other == 0))


def first_error_f1(metrics: dict[str, float]) -> dict[str, float]:
    """The harmonic mean of the two accuracies, 0 if one is 0; nothing unless both are there."""
    found = [metrics[name] for name in ("first_error_accuracy", "error_free_accuracy") if name in metrics]
    if len(found) < 2:
        return {}
    return {"first_error_f1": float(harmonic_mean(*found))}

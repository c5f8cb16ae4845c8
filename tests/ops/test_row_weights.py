from __future__ import annotations

import pytest
import torch

from llmrl.errors import RecipeError
from llmrl.ops.reductions import sequence_mean
from llmrl.ops.token_weights.rows import weighted_rows
from llmrl.providers.rows import row_weights
from llmrl.types import Group, Prompt, Trajectory


def groups(*rows: dict) -> list[Group]:
    prompts = [Prompt("train:0", (1,), "?", row) for row in rows]
    return [Group(prompt, [Trajectory(prompt, [], "stop")]) for prompt in prompts]


def test_each_trajectory_has_the_weight_of_its_row():
    found = groups({"weight": 1.5}, {"weight": 0})
    found[1].trajectories *= 2
    assert row_weights(found).tolist() == [1.5, 0.0, 0.0]
    assert row_weights(groups({"meta": {"w": 2}}), of="meta.w").tolist() == [2.0]
    mask = torch.tensor([[False, True, True], [True, False, False]])
    assert weighted_rows(torch.tensor([1.5, 0.25]), mask).tolist() == [[0.0, 1.5, 1.5], [0.25, 0.0, 0.0]]


def test_the_loss_is_the_mixture_of_the_parts_mean_losses():
    """Parts of 3, 2 and 1 rows with weights .6, .6 and .4: rows weigh .6 * 6/3, .6 * 6/2 and .4 * 6/1."""
    losses = torch.tensor([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0], [4.0, 0.0], [2.0, 6.0], [7.0, 7.0]])
    mask = torch.ones_like(losses, dtype=torch.bool)
    weights = torch.tensor([1.2, 1.2, 1.2, 1.8, 1.8, 2.4])
    loss = (losses * weighted_rows(weights, mask) * sequence_mean(mask)).sum()
    # 0.6 * mean(2, 2, 2) + 0.6 * mean(2, 4) + 0.4 * 7
    assert float(loss) == pytest.approx(0.6 * 2 + 0.6 * 3 + 0.4 * 7)


@pytest.mark.parametrize(("row", "words"), [
    ({"weights": 1}, "no column 'weight'; did you mean 'weights'"),
    ({"weight": "1"}, "weight: expected a finite number of at least 0, got '1'"),
    ({"weight": -1.0}, "got -1.0"),
    ({"weight": float("nan")}, "got nan"),
])  # fmt: skip
def test_a_row_without_a_weight_is_refused(row, words):
    with pytest.raises(RecipeError, match=words):
        row_weights(groups(row))

"""Credit by diversity: hand-worked similarities, and GRPO where answers have nothing in common."""

from __future__ import annotations

import pytest
import torch

from llmrl.ops.advantages.diversity import diverse_grpo, similarity
from llmrl.ops.advantages.group import grpo
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

PROMPT = Prompt("p", (1,), "?", {})


def answers(*token_ids: list[int]) -> Group:
    return Group(PROMPT, [Trajectory(PROMPT, [Turn(ACTOR, tokens)], "stop") for tokens in token_ids])


def test_similarity_is_the_shared_part_of_neighbouring_pairs():
    # pairs: {12, 23}, {12, 24}, {56}; the first two share 12 of 12, 23, 24. The second group stands alone
    found = similarity([answers([1, 2, 3], [1, 2, 4], [5, 6]), answers([1, 2, 3], [7])])
    assert found.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0, 0])
    assert similarity([answers([1], [2])]).tolist() == [1, 1]  # neither has a pair


def test_repeated_answers_are_worth_less():
    rewards = torch.tensor([[0, 1.0], [0, 1.0], [0, 0.0]])
    mask, ids = torch.tensor([[False, True]] * 3), torch.zeros(3, dtype=torch.long)
    found = diverse_grpo(rewards, mask, ids, torch.tensor([1.0, 0.0, 1.0])).advantages[:, 1]
    # rewards 1/2, 1, 0: mean 1/2, standard deviation 1/2
    assert found.tolist() == pytest.approx([0.0, 1.0, -1.0], abs=1e-5)


def test_answers_with_nothing_in_common_get_what_grpo_gives(ragged):
    rows = ragged(3)
    nothing = torch.zeros(len(rows.mask))
    expected = grpo(rows.rewards(), rows.mask, rows.group_ids).advantages
    rows = ragged(3)
    assert torch.equal(diverse_grpo(rows.rewards(), rows.mask, rows.group_ids, nothing).advantages, expected)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="weight"):
        diverse_grpo(torch.zeros(1, 1), torch.ones(1, 1).bool(), torch.zeros(1), torch.zeros(1), weight=-1.0)

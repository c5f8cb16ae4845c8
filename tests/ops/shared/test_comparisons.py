"""Completions as a whole and their pairs, against loops and hand-worked numbers."""

from __future__ import annotations

import torch

from llmrl.ops.shared.comparisons import compared, outcomes, pair_shares, pairs_of

GROUPS = torch.tensor([7, 7, 2, 2, 2, 9])
REWARDS = torch.tensor([0.0, 1.0, 0.5, 0.5, 2.0, 1.0])
NAN = float("nan")


def test_every_two_completions_of_a_group_with_different_rewards_are_a_pair():
    chosen, rejected = pairs_of(REWARDS, GROUPS)
    assert list(zip(chosen.tolist(), rejected.tolist(), strict=True)) == [(1, 0), (4, 2), (4, 3)]
    assert pair_shares(chosen, GROUPS).tolist() == [1.0, 0.5, 0.5]


def test_a_completion_without_tokens_is_in_no_pair():
    mask = torch.tensor([[False, False], [True, True]])
    assert torch.equal(
        outcomes(torch.tensor([[0.0, 0.0], [0.25, 1.0]]), mask).nan_to_num(-1), torch.tensor([-1.0, 1.25]).double()
    )
    chosen, rejected = pairs_of(torch.tensor([NAN, 1.25]), torch.tensor([0, 0]))
    assert (chosen.tolist(), rejected.tolist()) == ([], [])


def test_fields_of_completions_and_pairs_are_sums_over_response_tokens():
    mask = torch.tensor([[False, True, True], [False, True, False]])
    data = {
        "response_mask": mask,
        "rewards": torch.tensor([[0.0, 0.0, -1.0], [0.0, 3.0, 0.0]]),
        "group_ids": torch.tensor([4, 4]),
        "logprobs": torch.tensor([[0.0, -1.0, -2.0], [0.0, -4.0, -9.0]]),
        "ref_logprobs": torch.tensor([[0.0, -0.5, -0.25], [0.0, -5.0, -9.0]]),
    }
    expected = {
        "completion_logprobs": [-3.0, -4.0],
        "completion_ref_logprobs": [-0.75, -5.0],
        "completion_log_ratios": [-2.25, 1.0],
        "completion_lengths": [2, 1],
        "completion_rewards": [-1.0, 3.0],
        "chosen": [1],
        "rejected": [0],
        "chosen_log_ratios": [1.0],
        "rejected_log_ratios": [-2.25],
        "chosen_lengths": [1],
        "rejected_rewards": [-1.0],
    }
    assert {name: found.tolist() for name, found in compared(data, expected).items()} == expected

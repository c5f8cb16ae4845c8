from __future__ import annotations

import math

import pytest
import torch

from llmrl.ops.advantages.baselines import accepted, remax, static_baseline
from llmrl.ops.advantages.returns import rebn, reinforce


def trajectory_rewards(*values: float):
    """One response token per trajectory, its reward the outcome."""
    rewards = torch.tensor(values)[:, None]
    return rewards, torch.ones_like(rewards, dtype=torch.bool)


def turns(mask):
    """Each unbroken run of response tokens is a turn: 0, 1, ... along a row, -1 off the response."""
    starts = mask & ~torch.nn.functional.pad(mask[:, :-1], (1, 0))
    return torch.where(mask, starts.cumsum(1) - 1, -1)


def test_reward_to_go_steps_over_the_environment():
    # gamma 1/2, response tokens 0, 1, 4 with rewards 0, 2, 4: G_4 = 4, G_1 = 2 + 4/2 = 4, G_0 = 4/2 = 2
    rewards = torch.tensor([[0.0, 2, 0, 0, 4, 0]])
    mask = torch.tensor([[1, 1, 0, 0, 1, 0]], dtype=torch.bool)
    found = reinforce(rewards, mask, gamma=0.5, baseline="none").advantages
    assert found.tolist() == [[2, 4, 0, 0, 4, 0]]


def test_batch_statistics_are_over_tokens():
    # outcome 1 on three tokens and 0 on one: mean 3/4 (over trajectories it would be 1/2)
    # deviations 1/4 x3, -3/4: unbiased variance (3/16 + 9/16) / 3 = 1/4, so std 1/2
    rewards = torch.tensor([[0.0, 0, 1], [0, 0, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    centred = [[0.25, 0.25, 0.25], [-0.75, 0, 0]]
    assert reinforce(rewards, mask).advantages.tolist() == centred
    assert reinforce(rewards, mask, normalize_std=True).advantages.tolist() == [[0.5] * 3, [-1.5, 0, 0]]
    scaled = reinforce(rewards, mask, baseline="none", normalize_std=True).advantages
    assert scaled.tolist() == [[2, 2, 2], [0, 0, 0]]


def test_no_spread_means_no_scaling():
    rewards, mask = trajectory_rewards(0.1, 0.1, 0.1)
    assert torch.equal(reinforce(rewards, mask, normalize_std=True).advantages, torch.zeros(3, 1))
    assert torch.equal(reinforce(rewards, mask, baseline="none", normalize_std=True).advantages, rewards)


@pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
@pytest.mark.parametrize("baseline", ["none", "batch_mean"])
def test_reinforce_naive_loop(ragged, gamma, baseline):
    rows = ragged(11, width=37)
    rewards = rows.rewards()
    returns: dict[tuple[int, int], float] = {}
    for i in range(len(rewards)):
        ahead = 0.0
        for t in reversed(range(rewards.shape[1])):
            if rows.mask[i, t]:
                ahead = rewards[i, t].item() + gamma * ahead
                returns[i, t] = ahead
    mean = sum(returns.values()) / len(returns)
    std = math.sqrt(sum((x - mean) ** 2 for x in returns.values()) / (len(returns) - 1))
    for scale, normalize_std in ((1.0, False), (std, True)):
        found = reinforce(rewards, rows.mask, gamma=gamma, baseline=baseline, normalize_std=normalize_std)
        for (i, t), value in returns.items():
            expected = (value - (mean if baseline == "batch_mean" else 0.0)) / scale
            assert found.advantages[i, t].item() == pytest.approx(expected, abs=1e-5)


def test_long_discounted_rows_do_not_underflow():
    # 0.9^t is under the smallest fp64 past t = 7000; a reward of 1 on the last token still gives 0.9 before it
    rewards = torch.zeros(1, 9000)
    rewards[0, -1] = 1
    found = reinforce(rewards, torch.ones(1, 9000, dtype=torch.bool), gamma=0.9, baseline="none").advantages
    assert found[0, -3:].tolist() == pytest.approx([0.81, 0.9, 1.0])
    assert found[0, 0].item() == 0


def test_gamma_is_a_fraction():
    with pytest.raises(ValueError, match=r"gamma: 1\.5 is not valid"):
        reinforce(*trajectory_rewards(1.0), gamma=1.5)
    with pytest.raises(ValueError, match=r"gamma: -1\.5 is not valid"):
        rebn(*trajectory_rewards(1.0), torch.zeros(1, 1, dtype=torch.long), gamma=-1.5)


# rebn: turns


def test_turn_returns_are_whitened_over_turns():
    # row 0: turns of 3, 1, 1 tokens, rewards 0, 0, 1, so G = 1, 1, 1; row 1: two turns without reward, G = 0, 0
    # over the five turns: mean 3/5, unbiased variance (3 * 4/25 + 2 * 9/25) / 4 = 3/10
    # 0.4 / sqrt(0.3) = 0.730297, -0.6 / sqrt(0.3) = -1.095445
    turn_ids = torch.tensor([[-1, 0, 0, 0, -1, 1, 2], [-1, 0, -1, 1, 1, -1, -1]])
    rewards = torch.zeros(2, 7)
    rewards[0, 6] = 1
    rewards[1, 5] = 50  # off the response
    found = rebn(rewards, turn_ids >= 0, turn_ids).advantages
    high, low = 0.730297, -1.095445
    expected = torch.tensor([[0, high, high, high, 0, high, high], [0, low, 0, low, low, 0, 0]])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_gamma_counts_turns_not_tokens_and_no_turn_that_is_missing():
    # one row: turn 0 of two tokens, reward 1; turn 1 is missing; turn 2 with reward 2: G = 1 + 2/2 = 2 and 2
    # the other: one turn, G = 5. mean 3, variance (1 + 1 + 4) / 2 = 3
    turn_ids = torch.tensor([[0, 0, -1, 2], [0, -1, -1, -1]])
    rewards = torch.tensor([[0.0, 1, 0, 2], [5, 0, 0, 0]])
    found = rebn(rewards, turn_ids >= 0, turn_ids, gamma=0.5).advantages
    low, high = -1 / math.sqrt(3), 2 / math.sqrt(3)
    torch.testing.assert_close(found, torch.tensor([[low, low, 0, low], [high, 0, 0, 0]]))


def test_equal_turn_returns_give_exactly_zero():
    turn_ids = torch.tensor([[0, 0, 1], [0, -1, -1]])
    rewards = torch.tensor([[0, 0, 0.1], [0.1, 0, 0]])
    assert not rebn(rewards, turn_ids >= 0, turn_ids).advantages.any()


@pytest.mark.parametrize("gamma", [1.0, 0.7, 0.0])
def test_rebn_naive_loop(ragged, gamma):
    rows = ragged(5, rows=12, width=30)
    rewards, turn_ids = rows.rewards(), turns(rows.mask)
    returns: dict[tuple[int, int], float] = {}
    for i in range(len(rewards)):
        ahead = 0.0
        for k in reversed(range(int(turn_ids[i].max()) + 1)):
            ahead = rewards[i, turn_ids[i] == k].sum().item() + gamma * ahead
            returns[i, k] = ahead
    mean = sum(returns.values()) / len(returns)
    std = math.sqrt(sum((x - mean) ** 2 for x in returns.values()) / (len(returns) - 1))
    expected = torch.zeros_like(rewards)
    for (i, k), value in returns.items():
        expected[i, turn_ids[i] == k] = (value - mean) / std
    found = rebn(rewards, rows.mask, turn_ids, gamma=gamma).advantages
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_one_side_of_a_game_gains_the_other_loses():
    """Turns 0 and 2 are one side's, which takes the last stone; in the second row the other side does."""
    rewards = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    mask = torch.tensor([[True, True, True, False], [True, True, False, True]])
    turn_ids = torch.tensor([[0, 1, 2, -1], [0, 0, -1, 1]])
    returns = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    a, b, c, d, e = ((returns - returns.mean()) / returns.std()).tolist()
    found = rebn(rewards, mask, turn_ids, gamma=-1.0).advantages
    torch.testing.assert_close(found, torch.tensor([[a, b, c, 0.0], [d, d, 0.0, e]]))


def test_one_token_turns_are_token_returns(ragged):
    rows = ragged(8)
    rewards, turn_ids = rows.rewards(), torch.where(rows.mask, rows.mask.cumsum(1) - 1, -1)
    by_turn = rebn(rewards, rows.mask, turn_ids, gamma=0.8).advantages
    by_token = reinforce(rewards, rows.mask, gamma=0.8, normalize_std=True).advantages
    torch.testing.assert_close(by_turn, by_token)


# baselines known before the batch


def test_remax_is_reward_to_go_less_the_greedy_reward():
    # row 0: rewards 1, 2 on response tokens, G = 3, 2, 2 with the token between; greedy 2.5
    # row 1: no greedy reward; row 2: greedy 1 and nothing achieved
    rewards = torch.tensor([[1.0, 0, 50, 2], [4, 0, 0, 0], [0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.bool)
    found = remax(rewards, mask, torch.tensor([2.5, math.nan, 1.0])).advantages
    assert found.tolist() == [[0.5, -0.5, 0, -0.5], [0, 0, 0, 0], [-1, 0, 0, 0]]


def test_remax_against_zero_is_reinforce_without_baseline(ragged):
    rows = ragged(3)
    rewards = rows.rewards()
    plain = reinforce(rewards, rows.mask, baseline="none").advantages
    assert torch.equal(remax(rewards, rows.mask, torch.zeros(len(rewards))).advantages, plain)


def test_static_baseline_stays_where_the_starting_policy_was():
    # an easy prompt (3/4 solved at the start) and a hard one (1/8), solved by both, then failed; one value unknown
    values = torch.tensor([0.75, 0.125, 0.75, 0.125, math.nan])
    found = static_baseline(*trajectory_rewards(1, 1, 0, 0, 1), values).advantages[:, 0]
    assert found.tolist() == [0.25, 0.875, -0.75, -0.125, 0]


def test_only_positive_outcomes_are_accepted():
    # row 0: 2 - 0.5; row 1: 1 - 3 is below 0; row 2: 0
    rewards = torch.tensor([[2, -0.5, 50], [1, -3, 0], [0, 0, 0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    assert accepted(rewards, mask).advantages.tolist() == [[1.5, 1.5, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("name", ["remax", "static_baseline", "accepted"])
def test_baselines_naive_loop(ragged, name):
    rows = ragged(21)
    rewards, known = rows.rewards(), rows.noise()[:, 0]
    known[1] = math.nan
    function = {"remax": remax, "static_baseline": static_baseline, "accepted": accepted}[name]
    found = function(rewards, rows.mask, *([] if name == "accepted" else [known])).advantages
    for i in range(len(rewards)):
        tokens = rows.mask[i].nonzero().flatten().tolist()
        for t in tokens:
            total = sum(rewards[i, k].item() for k in tokens if name != "remax" or k >= t)
            one = max(total, 0) if name == "accepted" else 0.0 if i == 1 else total - known[i].item()
            assert found[i, t].item() == pytest.approx(one, abs=1e-5)
    assert not found[~rows.mask].any()

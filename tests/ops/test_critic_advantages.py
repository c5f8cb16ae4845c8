from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.ops.advantages.critic import appraised_gae, bilevel_gae, gae, sequence_baseline, step_gae, vtrace
from llmrl.ops.advantages.returns import reinforce
from llmrl.ops.policy_losses.clipped import ppo_clip
from llmrl.ops.shared.whitening import whiten

OVER = torch.zeros(1)  # of the value after the last token: every task was over
seeds = st.integers(0, 10_000)


def row(*values: float):
    return torch.tensor([values], dtype=torch.float)


def mask_of(*rows: str):
    """'x' a response token, '.' none."""
    return torch.tensor([[token == "x" for token in one] for one in rows])


def turns_of(mask, generator=None):
    """Turns are runs of response tokens, some cut in two, numbered from 0; -1 elsewhere."""
    before = torch.nn.functional.pad(mask[:, :-1], (1, 0))
    cut = torch.rand(mask.shape, generator=generator) < 0.3
    return torch.where(mask, (mask & (~before | cut)).cumsum(1) - 1, -1)


def naive_lambda(rewards, values, mask, gamma, lam):
    """{(row, column): advantage}, by a loop from the end; lam: one number per row."""
    found = {}
    for i in range(len(mask)):
        next_value = ahead = 0.0
        for t in reversed(range(mask.shape[1])):
            if mask[i, t]:
                delta = rewards[i, t].item() + gamma * next_value - values[i, t].item()
                ahead = found[i, t] = delta + gamma * lam[i] * ahead
                next_value = values[i, t].item()
    return found


def naive_whiten(found):
    mean = sum(found.values()) / len(found)
    std = math.sqrt(sum((x - mean) ** 2 for x in found.values()) / (len(found) - 1))
    return {key: (x - mean) / std for key, x in found.items()}


def assert_at(tensor, expected, elsewhere=0.0):
    """`tensor` is `expected` at its keys and `elsewhere` at all other places."""
    full = torch.full(tensor.shape, elsewhere)
    for key, value in expected.items():
        full[key] = value
    torch.testing.assert_close(tensor, full, atol=1e-5, rtol=1e-5, equal_nan=True)


class TestWhiten:
    def test_by_hand(self):
        # 1, 3, 5: mean 3, unbiased variance (4 + 0 + 4) / 2 = 4
        found = whiten(torch.tensor([1.0, math.nan, 3, 5]), torch.tensor([True, False, True, True]))
        assert found.tolist() == [-1, 0, 0, 1]

    @pytest.mark.parametrize("count", [0, 1])
    def test_fewer_than_two_numbers_are_left_as_they_are(self, count):
        mask = torch.arange(3) < count
        assert whiten(torch.full((3,), 7.0), mask).tolist() == [7.0 * float(here) for here in mask]

    def test_equal_numbers_are_zero(self):
        assert not whiten(torch.full((7,), 0.1), torch.ones(7).bool()).any()


class TestGae:
    def test_by_hand(self):
        # delta = [.4 - .5, .6 - .4, 1 - .6] = [-.1, .2, .4]; A_2 .4, A_1 .2 + .95 .4, A_0 -.1 + .95 .58
        data = row(0, 0, 1), row(0.5, 0.4, 0.6), mask_of("xxx")
        found = gae(*data, whiten=False)
        assert found.advantages[0].tolist() == pytest.approx([0.451, 0.58, 0.4])
        assert found.returns[0].tolist() == pytest.approx([0.951, 0.98, 1.0])
        # mean .477, unbiased std .092774
        white = gae(*data)
        assert white.advantages[0].tolist() == pytest.approx([-0.280251, 1.110225, -0.829974], abs=1e-6)
        assert torch.equal(white.returns, found.returns)

    def test_observations_are_passed_over(self):
        # delta_3 = 1 - .6 = .4, delta_0 = .6 - .5 = .1; A_0 = .1 + .95 .4 = .48
        found = gae(row(0, 0, 0, 1), row(0.5, 9, 9, 0.6), mask_of("x..x"), whiten=False)
        assert_at(found.advantages, {(0, 0): 0.48, (0, 3): 0.4})
        assert_at(found.returns, {(0, 0): 0.98, (0, 3): 1.0}, elsewhere=math.nan)

    def test_returns_have_their_own_lambda(self):
        # lam_returns 1 and gamma 1: the outcome, whatever the values; advantages keep lam .95
        found = gae(row(0, 0, 1), row(0.5, 0.4, 0.6), mask_of("xxx"), lam_returns=1.0, whiten=False)
        assert found.advantages[0].tolist() == pytest.approx([0.451, 0.58, 0.4])
        assert found.returns[0].tolist() == pytest.approx([1, 1, 1])

    @pytest.mark.parametrize(("length", "lam"), [(10, 0), (20, 0), (40, 0.5), (100, 0.8), (1000, 0.98)])
    def test_length_adaptive_lambda(self, length, lam):
        # V 0, one reward 1 at the end: the token before the last has credit lam = 1 - 1 / (.05 length)
        rewards = torch.zeros(1, 1003)
        rewards[0, length - 1] = 1
        mask = (torch.arange(1003) < length)[None]
        found = gae(rewards, torch.zeros(1, 1003), mask, lam=0.5, length_adaptive=0.05, whiten=False)
        assert found.advantages[0, length - 2].item() == pytest.approx(lam, abs=1e-6)
        assert found.returns[0, length - 2].item() == 0.5  # the critic's lam is not adapted

    def test_frozen_values_without_an_outcome(self):
        # delta = [.5 - .2, 0 - .5]; A_0 = .3 - .95 .5
        found = gae(row(0, 0), row(0.2, 0.5), mask_of("xx"), whiten=False).advantages
        assert found[0].tolist() == pytest.approx([-0.175, -0.5])

    def test_lambda_0_is_the_rise_of_the_value(self):
        # V_{t+1} - V_t, and R - V_T on the last token
        found = gae(row(0, 0, 0, 1), row(0.5, 9, 0.4, 0.7), mask_of("x.xx"), lam=0.0, whiten=False).advantages
        assert found[0].tolist() == pytest.approx([-0.1, 0, 0.3, 0.3])

    @pytest.mark.parametrize("gamma", [1.0, 0.9, 0.0])
    def test_lambda_1_without_values_is_the_reward_to_go(self, ragged, gamma):
        rows = ragged(3)
        rewards = rows.rewards()
        found = gae(rewards, torch.zeros_like(rewards), rows.mask, gamma=gamma, lam=1.0, whiten=False)
        expected = reinforce(rewards, rows.mask, gamma=gamma, baseline="none").advantages
        torch.testing.assert_close(found.advantages, expected)
        torch.testing.assert_close(found.returns, torch.where(rows.mask, expected, math.nan), equal_nan=True)

    def test_actor_critic_is_ppo_of_one_epoch(self, ragged):
        """A2C: with G_t - V_t as the advantage, PPO's first step has the gradient -(G_t - V_t)."""
        rows = ragged(4)
        rewards, values, old = rows.rewards(), rows.noise(), rows.logprobs()
        advantages = gae(rewards, values, rows.mask, gamma=0.9, lam=1.0, whiten=False).advantages
        returns = reinforce(rewards, rows.mask, gamma=0.9, baseline="none").advantages
        torch.testing.assert_close(advantages, (returns - values) * rows.mask, atol=1e-5, rtol=1e-5)
        logprobs = old.clone().requires_grad_()
        ppo_clip(logprobs - old, advantages).loss.sum().backward()
        torch.testing.assert_close(logprobs.grad, -advantages)

    @pytest.mark.parametrize(("gamma", "lam", "lam_returns", "alpha"), [(1, 0.95, None, None), (0.9, 0.5, 1, 0.4)])
    def test_naive_loop(self, ragged, gamma, lam, lam_returns, alpha):
        for seed in range(5):
            rows = ragged(seed)
            rewards, values = rows.rewards(), rows.noise()
            lengths = rows.mask.sum(1).tolist()
            adapted = [lam if alpha is None else min(max(1 - 1 / (alpha * max(n, 1)), 0), 1) for n in lengths]
            critic = [lam if lam_returns is None else lam_returns] * len(lengths)
            chosen = {"gamma": gamma, "lam": lam, "lam_returns": lam_returns, "length_adaptive": alpha}
            found = gae(rewards, values, rows.mask, **chosen)
            assert_at(found.advantages, naive_whiten(naive_lambda(rewards, values, rows.mask, gamma, adapted)))
            for_critic = naive_lambda(rewards, values, rows.mask, gamma, critic)
            expected = {key: x + values[key].item() for key, x in for_critic.items()}
            assert_at(found.returns, expected, elsewhere=math.nan)

    def test_one_response_token_is_not_whitened(self):
        found = gae(row(0, 1), row(0, 0.25), mask_of(".x")).advantages
        assert found.tolist() == [[0, 0.75]]
        assert not gae(row(0, 1), row(0, 0.25), mask_of("..")).advantages.any()

    def test_a_perfect_critic_leaves_no_credit(self):
        outcome = torch.tensor([0.1, 0.7])[:, None]
        rewards = torch.cat([torch.zeros(2, 3), outcome], 1)
        assert not gae(rewards, outcome.expand(2, 4), mask_of("xxxx", "x.xx")).advantages.any()


class TestStepGae:
    MASK = mask_of(".xx.xxx")
    TURNS = torch.tensor([[-1, 0, 0, -1, 1, 1, 1]])
    VALUES = row(9, 0.5, 9, 9, 0.25, 9, 9)  # 9: not at a turn's first token

    def test_by_hand(self):
        # turn rewards 1 and 2, gamma .5, lam .5: A_1 = 2 - .25 = 1.75
        # delta_0 = 1 + .5 .25 - .5 = .625, A_0 = .625 + .25 1.75 = 1.0625
        rewards = row(7, 0, 1, 7, 0, 0.5, 1.5)
        found = step_gae(rewards, self.VALUES, self.MASK, self.TURNS, OVER, gamma=0.5, lam=0.5, whiten=False)
        assert found.advantages.tolist() == [[0, 1.0625, 1.0625, 0, 1.75, 1.75, 1.75]]
        assert_at(found.returns, {(0, 1): 1.5625, (0, 4): 2.0}, elsewhere=math.nan)

    def test_turns_weigh_the_same_in_the_whitening(self):
        # two numbers are +-(d / 2) from their mean, std d / sqrt(2): +-1 / sqrt(2), whatever the turns' lengths
        found = step_gae(row(7, 0, 1, 7, 0, 0.5, 1.5), self.VALUES, self.MASK, self.TURNS, OVER).advantages
        low = -math.sqrt(0.5)
        expected = row(0, low, low, 0, -low, -low, -low)
        torch.testing.assert_close(found.abs(), expected.abs())
        assert found[0, 1] == -found[0, 4]

    def test_turns_that_follow_at_once_are_apart(self):
        # gamma lam 1, V 0: the later turn's 2 is credit of the first too
        turns = torch.tensor([[0, 0, 1]])
        found = step_gae(row(0, 1, 2), torch.zeros(1, 3), mask_of("xxx"), turns, OVER, gamma=1, lam=1, whiten=False)
        assert found.advantages.tolist() == [[3, 3, 2]]
        assert_at(found.returns, {(0, 0): 3.0, (0, 2): 2.0}, elsewhere=math.nan)

    def test_turns_of_one_token_are_gae(self, ragged):
        rows = ragged(5)
        turns = torch.where(rows.mask, rows.mask.cumsum(1) - 1, -1)
        data = rows.rewards(), rows.noise(), rows.mask
        steps, tokens = step_gae(*data, turns, OVER, gamma=0.9, lam=0.8), gae(*data, gamma=0.9, lam=0.8)
        torch.testing.assert_close(steps.advantages, tokens.advantages)
        torch.testing.assert_close(steps.returns, tokens.returns, equal_nan=True)

    def test_a_cut_episode_goes_on_from_its_last_value(self):
        # as test_by_hand, and 4 after the last token: A_1 = 2 + .5 4 - .25 = 3.75, A_0 = .625 + .25 3.75
        rewards, after = row(7, 0, 1, 7, 0, 0.5, 1.5), torch.tensor([4.0])
        found = step_gae(rewards, self.VALUES, self.MASK, self.TURNS, after, gamma=0.5, lam=0.5, whiten=False)
        assert found.advantages.tolist() == [[0, 1.5625, 1.5625, 0, 3.75, 3.75, 3.75]]
        assert_at(found.returns, {(0, 1): 2.0625, (0, 4): 4.0}, elsewhere=math.nan)

    @pytest.mark.parametrize("white", [True, False])
    def test_naive_loop(self, ragged, white):
        for seed in range(5):
            rows = ragged(seed)
            turns = turns_of(rows.mask, rows.generator)
            rewards, values = rows.rewards(), rows.noise()
            firsts, of_turn = {}, {}
            compact_rewards, compact_values = torch.zeros(2, *rows.mask.shape)
            for i, t in rows.mask.nonzero().tolist():
                k = turns[i, t].item()
                if (i, k) not in firsts:
                    firsts[i, k] = t
                    compact_values[i, k] = values[i, t]
                compact_rewards[i, k] += rewards[i, t]
            there = torch.zeros_like(rows.mask)
            for key in firsts:
                there[key] = True
            of_turn = naive_lambda(compact_rewards, compact_values, there, 0.99, [0.95] * len(values))
            found = step_gae(rewards, values, rows.mask, turns, OVER, whiten=white)
            targets = {(i, t): of_turn[i, k] + values[i, t].item() for (i, k), t in firsts.items()}
            assert_at(found.returns, targets, elsewhere=math.nan)
            credit = naive_whiten(of_turn) if white else of_turn
            assert_at(
                found.advantages,
                {(i, t): credit[i, turns[i, t].item()] for i, t in rows.mask.nonzero().tolist()},
            )


class TestBilevelGae:
    def test_two_turns_of_which_the_second_is_rewarded(self):
        """gamma .95, lam 1, V 0: turn 1 has .95. Where rewards mark the ends of turns, both turns are one, with 1."""
        mask, turns = mask_of(".xx.xx"), torch.tensor([[-1, 0, 0, -1, 1, 1]])
        data = row(9, 0, 0, 9, 0, 1), torch.zeros(1, 6), mask
        found = bilevel_gae(*data, turns, OVER, whiten=False).advantages
        torch.testing.assert_close(found, row(0, 0.95, 0.95, 0, 1, 1))
        by_reward = bilevel_gae(*data, turns.clamp(max=0), OVER, whiten=False).advantages
        assert by_reward.tolist() == [[0, 1, 1, 0, 1, 1]]

    def test_by_hand(self):
        """gamma .5, token_gamma .9, lam .5; the values at the turns' last tokens are .4 and .2, and .8 after them.

        H_1 = 2 + .5 .8 - .2 = 2.2            H_0 = 1 + .5 .2 - .4 + .25 2.2 = 1.25
        first tokens: .3 reward, values .6 and 1: .3 + .9 .4 - .6 + .45 1.25 = .6225; .9 .2 - 1 + .45 2.2 = .17
        """
        rewards, values = row(0.3, 1, 7, 0, 2), row(0.6, 0.4, 7, 1, 0.2)
        turns, after = torch.tensor([[0, 0, -1, 1, 1]]), torch.tensor([0.8])
        found = bilevel_gae(
            rewards, values, mask_of("xx.xx"), turns, after, gamma=0.5, token_gamma=0.9, lam=0.5, whiten=False
        )
        torch.testing.assert_close(found.advantages, row(0.6225, 1.25, 0, 0.17, 2.2))
        torch.testing.assert_close(found.returns, row(1.2225, 1.65, math.nan, 1.17, 2.4), equal_nan=True)

    def test_turns_of_one_token_are_gae_over_turns(self, ragged):
        rows = ragged(6)
        turns = torch.where(rows.mask, rows.mask.cumsum(1) - 1, -1)
        data = rows.rewards(), rows.noise(), rows.mask
        found = bilevel_gae(*data, turns, OVER, gamma=0.9, token_gamma=0.3, lam=0.8)
        tokens = gae(*data, gamma=0.9, lam=0.8)
        torch.testing.assert_close(found.advantages, tokens.advantages)
        torch.testing.assert_close(found.returns, tokens.returns, equal_nan=True)

    def test_one_turn_is_gae_over_tokens(self, ragged):
        rows = ragged(7)
        turns = torch.where(rows.mask, 0, -1)
        data = rows.rewards(), rows.noise(), rows.mask
        found = bilevel_gae(*data, turns, OVER, gamma=0.3, token_gamma=0.9, lam=0.8)
        torch.testing.assert_close(found.advantages, gae(*data, gamma=0.9, lam=0.8).advantages)


class TestVtrace:
    def test_by_hand(self):
        # rho [.5, 2, 1], caps 1: delta = [.5 (.4 - .5), .6 - .4, 1 - .6] = [-.05, .2, .4], c = [.5, 1, 1]
        # R - V = [-.05 + .5 .6, .2 + .4, .4]; A = [.5 (1 - .5), 1 (1 - .4), 1 - .6]
        old = row(math.log(0.5), math.log(2), 0)
        found = vtrace(row(0, 0, 1), row(0.5, 0.4, 0.6), mask_of("xxx"), old, torch.zeros(1, 3))
        assert found.returns[0].tolist() == pytest.approx([0.75, 1, 1])
        assert found.advantages[0].tolist() == pytest.approx([0.25, 0.6, 0.4])

    def test_each_cap_has_its_place(self):
        # two tokens, rho [4, 4], V [0, 1], outcome 3; rho_cap 3, c_cap 2, rho_advantage_cap 1.5
        # delta = [3 (1 - 0), 3 (3 - 1)] = [3, 6]; R = [0 + 3 + 2 6, 1 + 6] = [15, 7]; A = [1.5 7, 1.5 (3 - 1)]
        caps = {"rho_cap": 3.0, "c_cap": 2.0, "rho_advantage_cap": 1.5}
        old = torch.full((1, 2), math.log(4))
        found = vtrace(row(0, 3), row(0, 1), mask_of("xx"), old, torch.zeros(1, 2), **caps)
        assert found.returns[0].tolist() == pytest.approx([15, 7])
        assert found.advantages[0].tolist() == pytest.approx([10.5, 3])

    @settings(max_examples=30)
    @given(seed=seeds)
    def test_on_policy_it_is_the_return_and_its_distance_to_the_value(self, ragged, seed):
        rows = ragged(seed)
        rewards, values, old = rows.rewards(), rows.noise(), rows.logprobs()
        found = vtrace(rewards, values, rows.mask, old, old, gamma=0.9)
        returns = reinforce(rewards, rows.mask, gamma=0.9, baseline="none").advantages
        torch.testing.assert_close(found.returns[rows.mask], returns[rows.mask], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.advantages, (returns - values) * rows.mask, atol=1e-5, rtol=1e-5)

    @settings(max_examples=30)
    @given(seed=seeds)
    def test_on_policy_lambda_gives_the_returns_of_gae(self, ragged, seed):
        rows = ragged(seed)
        data, old = (rows.rewards(), rows.noise(), rows.mask), rows.logprobs()
        found = vtrace(*data, old, old, gamma=0.9, lam=0.7)
        expected = gae(*data, gamma=0.9, lam=0.7, whiten=False)
        torch.testing.assert_close(found.returns, expected.returns, equal_nan=True)
        torch.testing.assert_close(found.advantages, expected.advantages, atol=1e-5, rtol=1e-5)

    def test_naive_loop(self, ragged):
        gamma, lam, rho_cap, c_cap, last_cap = 0.9, 0.8, 1.5, 0.7, 2.0
        for seed in range(5):
            rows = ragged(seed)
            rewards, values, old, rollout = rows.rewards(), rows.noise(), rows.logprobs(), rows.logprobs()
            targets, credit = {}, {}
            for i in range(len(rewards)):
                next_value = next_target = 0.0
                for t in reversed(range(rewards.shape[1])):
                    if not rows.mask[i, t]:
                        continue
                    r, v = rewards[i, t].item(), values[i, t].item()
                    rho = math.exp(old[i, t].item() - rollout[i, t].item())
                    ahead = lam * next_target + (1 - lam) * next_value
                    credit[i, t] = min(last_cap, rho) * (r + gamma * ahead - v)
                    delta = min(rho_cap, rho) * (r + gamma * next_value - v)
                    next_target = v + delta + gamma * lam * min(c_cap, rho) * (next_target - next_value)
                    targets[i, t], next_value = next_target, v
            caps = {"rho_cap": rho_cap, "c_cap": c_cap, "rho_advantage_cap": last_cap}
            found = vtrace(rewards, values, rows.mask, old, rollout, gamma=gamma, lam=lam, **caps)
            assert_at(found.returns, targets, elsewhere=math.nan)
            assert_at(found.advantages, credit)


class TestSequenceBaseline:
    def test_by_hand(self):
        # outcomes 1 + 2 and 1; values at the first response token .5 and 1.5: A = 2.5, -.5
        rewards = torch.tensor([[7.0, 1, 7, 2], [7, 7, 1, 7]])
        values = torch.tensor([[9, 0.5, 9, 9], [9, 9, 1.5, 9]])
        mask = mask_of(".x.x", "..x.")
        found = sequence_baseline(rewards, values, mask, whiten=False)
        assert found.advantages.tolist() == [[0, 2.5, 0, 2.5], [0, 0, -0.5, 0]]
        assert_at(found.returns, {(0, 1): 3.0, (0, 3): 3.0, (1, 2): 1.0}, elsewhere=math.nan)
        # mean 1, unbiased std sqrt(2 1.5^2)
        white = sequence_baseline(rewards, values, mask).advantages
        assert white[[0, 0, 1], [1, 3, 2]].tolist() == pytest.approx([0.707107, 0.707107, -0.707107], abs=1e-6)

    def test_naive_loop(self, ragged):
        for seed in range(5):
            rows = ragged(seed)
            rewards, values = rows.rewards(), rows.noise()
            outcome = {i: rewards[i].sum().item() for i in range(len(rewards)) if rows.mask[i].any()}
            raw = {i: r - values[i][rows.mask[i]][0].item() for i, r in outcome.items()}
            white = naive_whiten(raw)
            found = sequence_baseline(rewards, values, rows.mask)
            tokens = rows.mask.nonzero().tolist()
            assert_at(found.advantages, {(i, t): white[i] for i, t in tokens})
            assert_at(found.returns, {(i, t): outcome[i] for i, t in tokens}, elsewhere=math.nan)


# name: (data -> Credit), of rewards, values, mask, turn_ids, old, rollout
ALL = {
    "gae": lambda r, v, m, turns, old, rollout: gae(r, v, m, gamma=0.9),
    "vapo": lambda r, v, m, turns, old, rollout: gae(r, v, m, lam_returns=1.0, length_adaptive=0.3),
    "step_gae": lambda r, v, m, turns, old, rollout: step_gae(r, v, m, turns, OVER),
    "bilevel_gae": lambda r, v, m, turns, old, rollout: bilevel_gae(r, v, m, turns, OVER),
    "vtrace": lambda r, v, m, turns, old, rollout: vtrace(r, v, m, old, rollout, gamma=0.9, lam=0.9),
    "sequence_baseline": lambda r, v, m, turns, old, rollout: sequence_baseline(r, v, m),
}


def data_of(rows):
    turns = turns_of(rows.mask, rows.generator)
    return [rows.rewards(), rows.noise(), rows.mask, turns, rows.logprobs(), rows.logprobs()]


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=30)
@given(seed=seeds, data=st.data())
def test_rows_permuted_and_columns_padded(ragged, name, seed, data):
    rows = data_of(ragged(seed))
    plain = ALL[name](*rows)
    order = torch.tensor(data.draw(st.permutations(range(len(rows[0])))))
    permuted = ALL[name](*(x[order] for x in rows))
    torch.testing.assert_close(permuted.advantages, plain.advantages[order])
    torch.testing.assert_close(permuted.returns, plain.returns[order], equal_nan=True)
    left, right = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 3))
    wide = ALL[name](*(torch.nn.functional.pad(x, (left, right)) for x in rows))
    columns = slice(left, left + rows[0].shape[1])
    torch.testing.assert_close(wide.advantages[:, columns], plain.advantages)
    torch.testing.assert_close(wide.returns[:, columns], plain.returns, equal_nan=True)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e9])
def test_what_lies_off_the_mask_has_no_influence(ragged, name, junk):
    for seed in range(5):
        rewards, values, mask, turns, old, rollout = data_of(ragged(seed))
        plain = ALL[name](rewards, values, mask, turns, old, rollout)
        floats = (torch.where(mask, x, junk) for x in (rewards, values, old, rollout))
        rewards, values, old, rollout = floats
        found = ALL[name](rewards, values, mask, torch.where(mask, turns, 77), old, rollout)
        assert torch.equal(found.advantages, plain.advantages)
        assert torch.equal(found.returns[mask].nan_to_num(), plain.returns[mask].nan_to_num())
        assert not found.advantages[~mask].any()
        assert found.returns[~mask].isnan().all()
        assert found.advantages.dtype == found.returns.dtype == torch.float32


@pytest.mark.parametrize("name", ALL)
def test_no_response_at_all(ragged, name):
    rewards, values, mask, *rest = data_of(ragged(0))
    found = ALL[name](rewards, values, torch.zeros_like(mask), *rest)
    assert not found.advantages.any()
    assert found.returns.isnan().all()


@pytest.mark.parametrize(
    ("function", "wrong", "message"),
    [
        (gae, {"gamma": 1.1}, "gamma: 1.1"),
        (gae, {"lam": -0.1}, "lam: -0.1"),
        (gae, {"lam_returns": 2.0}, "lam_returns: 2.0"),
        (gae, {"length_adaptive": 0.0}, "length_adaptive: 0.0"),
        (step_gae, {"gamma": -1.0}, "gamma: -1.0"),
        (step_gae, {"lam": 1.5}, "lam: 1.5"),
        (bilevel_gae, {"token_gamma": 1.5}, "token_gamma: 1.5"),
        (vtrace, {"lam": 1.5}, "lam: 1.5"),
        (vtrace, {"rho_cap": 0.0}, "rho_cap: 0.0"),
        (vtrace, {"rho_advantage_cap": -1.0}, "rho_advantage_cap: -1.0"),
        (vtrace, {"c_cap": -1.0}, "c_cap: -1.0"),
    ],
)
def test_settings_out_of_range(ragged, function, wrong, message):
    rewards, values, mask, turns, old, rollout = data_of(ragged(0))
    extra = {gae: (), step_gae: (turns, OVER), bilevel_gae: (turns, OVER), vtrace: (old, rollout)}[function]
    with pytest.raises(ValueError, match=message):
        function(rewards, values, mask, *extra, **wrong)


class TestAppraisedGae:
    """Segments AA, BBB and C behind a prompt, with values 0.4, 0.7 and 0.5 at their first tokens."""

    VALUES = torch.tensor([[math.nan, 0.4, math.nan, 0.7, math.nan, math.nan, 0.5]])
    MASK = torch.tensor([[False, *[True] * 6]])
    REWARDS = torch.tensor([[9.0, 0.0, 0.0, 0.0, 0.25, 0.0, 1.0]])

    def test_by_hand(self):
        # deltas: 0.7 - 0.4, 0.25 + 0.5 - 0.7, 1 - 0.5; A_C = 0.5, A_B = 0.05 + 0.5 x 0.5, A_A = 0.3 + 0.5 x 0.3
        found = appraised_gae(self.REWARDS, self.VALUES, self.MASK, gamma=1.0, lam=0.5, whiten=False)
        expected = torch.tensor([[0.0, 0.45, 0.45, 0.3, 0.3, 0.3, 0.5]])
        torch.testing.assert_close(found.advantages, expected)
        assert found.returns is None

    def test_at_lambda_one_it_is_the_return_less_the_value(self):
        found = appraised_gae(self.REWARDS, self.VALUES, self.MASK, lam=1.0, whiten=False).advantages
        torch.testing.assert_close(found, torch.tensor([[0.0, 0.85, 0.85, 0.55, 0.55, 0.55, 0.5]]))

    def test_a_state_that_nobody_appraised_begins_no_segment(self):
        values = torch.where(torch.arange(7) == 3, math.nan, self.VALUES)
        found = appraised_gae(self.REWARDS, values, self.MASK, lam=0.5, whiten=False).advantages
        # delta of AABBB: 0.25 + 0.5 - 0.4
        torch.testing.assert_close(found, torch.tensor([[0.0, *[0.35 + 0.25] * 5, 0.5]]))
        nobody = torch.full_like(values, math.nan)
        whole = appraised_gae(self.REWARDS, nobody, self.MASK, whiten=False).advantages
        torch.testing.assert_close(whole, torch.tensor([[0.0, *[1.25] * 6]]))

    def test_whitening_counts_each_segment_once(self):
        found = appraised_gae(self.REWARDS, self.VALUES, self.MASK, lam=0.5).advantages[0, [1, 3, 6]]
        raw = torch.tensor([0.45, 0.3, 0.5])
        torch.testing.assert_close(found, (raw - raw.mean()) / raw.std())

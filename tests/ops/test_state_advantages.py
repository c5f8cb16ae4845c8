from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llmrl.errors import RecipeError
from llmrl.ops.advantage_shaping.states import merged_turns
from llmrl.ops.advantages.group import grpo, rloo
from llmrl.ops.advantages.states import state_grpo, state_returns
from llmrl.ops.advantages.turns import first_turn_grpo, turn_grpo
from llmrl.ops.token_weights.durations import turn_duration
from llmrl.pieces import bind
from llmrl.types import Credit

Data = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
UNIT = math.sqrt(0.5)  # half the distance of two numbers over their unbiased std


def laid_out(states: list[list[int]], rewards: list[list[float]], groups: list[int] | None = None) -> Data:
    """Turns of two tokens with an observation between; a state and a reward, on the last token, for each turn."""
    longest = max(map(len, states))
    turn_ids = torch.full((len(states), 3 * longest), -1)
    state_ids, given = turn_ids.clone(), torch.zeros(turn_ids.shape)
    for row, (own, earned) in enumerate(zip(states, rewards, strict=True)):
        for turn, (state, reward) in enumerate(zip(own, earned, strict=True)):
            turn_ids[row, 3 * turn : 3 * turn + 2] = turn
            state_ids[row, 3 * turn : 3 * turn + 2] = state
            given[row, 3 * turn + 1] = reward
    return given, turn_ids >= 0, turn_ids, state_ids, torch.tensor(groups or [0] * len(states))


def per_turn(found: Tensor, data: Data) -> list[list[float]]:
    """The credit of each turn, which all its tokens have, and no other token."""
    _, mask, turn_ids, *_ = data
    assert not found[~mask].any()
    rows = []
    for row in range(len(found)):
        own = [found[row][turn_ids[row] == turn].tolist() for turn in range(int(turn_ids[row].max()) + 1)]
        assert all(len(set(turn)) == 1 for turn in own)
        rows.append([turn[0] for turn in own])
    return rows


class TestStateGrpo:
    def test_two_rollouts_from_one_state(self):
        """Return .95 of a success a turn later, and 0: +-.475 against the state's mean, +-.5 against the group's."""
        data = laid_out([[0, 1], [0, 2]], [[0, 1], [0, 0]])
        found = state_grpo(*data, normalize_std=False).advantages
        assert per_turn(found, data) == [[pytest.approx(0.975), 0.5], [pytest.approx(-0.975), -0.5]]

    def test_both_parts_in_their_own_units(self):
        # outcomes 1, 0 and returns .95, 0: +-.707107 each; the weight is of the second
        data = laid_out([[0, 1], [0, 2]], [[0, 1], [0, 0]])
        found = state_grpo(*data, state_weight=0.5, std_floor=1e-12).advantages
        assert per_turn(found, data)[0] == pytest.approx([1.5 * UNIT, UNIT])

    def test_a_state_is_compared_whatever_the_turns_number(self):
        """State 3 is the first's second turn and the second's third: returns 1, 1 and 0."""
        data = laid_out([[0, 3, 3], [1, 2, 3]], [[0, 0, 1], [0, 0, 0]])
        found = per_turn(state_grpo(*data, gamma=1.0, normalize_std=False).advantages, data)
        # G in state 3: 1, 1, 0: mean 2/3
        assert found[0] == pytest.approx([0.5, 0.5 + 1 / 3, 0.5 + 1 / 3])
        assert found[1] == pytest.approx([-0.5, -0.5, -0.5 - 2 / 3])

    def test_without_repeated_states_it_is_grpo(self):
        for states in ([[0, 1], [2, 3], [4, 5]], [[-1, -1]] * 3):
            data = laid_out(states, [[1, 2], [0, 1], [3, 0]])
            rewards, mask, _, _, groups = data
            torch.testing.assert_close(state_grpo(*data).advantages, grpo(rewards, mask, groups).advantages)

    def test_equal_states_of_other_groups_are_not_compared(self):
        data = laid_out([[0], [0]], [[1], [0]], [3, 4])
        assert not state_grpo(*data).advantages.any()


class TestStateReturns:
    def test_others_in_the_same_state_are_the_baseline(self):
        """Three that meet in state 1: returns 4, 1, 1 there, so the first has 4 - 1, the others 1 - 2.5.

        In the first state returns are 6, 1, 2: 6 - 1.5, 1 - 4, 2 - 3.5. The first's state 2 is its own: what it has
        there is its whole return against the others', 6 - 1.5.
        """
        data = laid_out([[0, 1, 2], [0, 1], [0, 1]], [[2, 0, 4], [0, 1], [1, 1]])
        found = per_turn(state_returns(*data).advantages, data)
        assert found == [[4.5, 3, 4.5], [-3, -1.5], [-1.5, -1.5]]

    def test_a_trajectory_is_no_baseline_of_itself(self):
        # the first is twice in state 0: returns 3 and 2 against the other's 1
        data = laid_out([[0, 0], [0]], [[1, 2], [1]])
        assert per_turn(state_returns(*data).advantages, data) == [[2, 1], [1 - 2.5]]

    def test_in_states_of_their_own_it_is_leave_one_out(self):
        rewards, mask, _, _, groups = data = laid_out([[0, 1], [2, 3], [4, 5]], [[1, 2], [0, 1], [3, 0]])
        torch.testing.assert_close(state_returns(*data).advantages, rloo(rewards, mask, groups).advantages)
        whole = laid_out([[0, 0], [0, 0], [0, 0]], [[1, 2], [0, 1], [3, 0]])
        found = state_returns(*whole, compared="group").advantages
        torch.testing.assert_close(found, rloo(rewards, mask, groups).advantages)

    def test_the_baseline_does_not_change_the_expected_gradient(self):
        """All pairs of trajectories of a tiny task, weighted by their chance: the mean of A times the score is the
        gradient of the expected return, though the second turn's state follows from the first action."""
        logits = torch.tensor([[0.3, -0.2], [0.5, 0.0], [-0.4, 0.1]], dtype=torch.float64)  # of states 0, 1, 2
        payoff = torch.tensor([[1.0, 0.0], [4.0, 2.0]], dtype=torch.float64)  # by first and second action
        chance = logits.softmax(dim=1)
        paths = [(a, b) for a in (0, 1) for b in (0, 1)]
        of_path = {(a, b): float(chance[0, a] * chance[1 + a, b]) for a, b in paths}

        def score(state: int, action: int) -> Tensor:
            found = torch.zeros(3, 2, dtype=torch.float64)
            found[state] = torch.nn.functional.one_hot(torch.tensor(action), 2) - chance[state]
            return found

        found, expected = torch.zeros(3, 2, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
        for one in paths:
            expected += of_path[one] * payoff[one] * (score(0, one[0]) + score(1 + one[0], one[1]))
            for other in paths:
                data = laid_out([[0, 1 + a] for a, _ in (one, other)], [[0, float(payoff[p])] for p in (one, other)])
                first, second = per_turn(state_returns(*data).advantages, data)[0]
                weight = of_path[one] * of_path[other]
                found += weight * (first * score(0, one[0]) + second * score(1 + one[0], one[1]))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("index", ["turn_index", "step"])
    def test_turns_are_not_compared_by_their_number(self, index):
        with pytest.raises(RecipeError, match=f"compared: {index} is not valid.*different states"):
            bind("state_returns", state_returns, {"compared": index}, key="advantage")

    def test_other_words_are_refused_too(self):
        with pytest.raises(RecipeError, match="compared: turns is not valid, expected state or group"):
            bind("state_returns", state_returns, {"compared": "turns"}, key="advantage")


class TestMergedTurns:
    def merged(self, states, actions, advantages, groups=None):
        _, mask, turn_ids, state_ids, group_ids = data = laid_out(states, [[0.0] * len(s) for s in states], groups)
        action_ids = laid_out(actions, [[0.0] * len(s) for s in states])[3]
        given = torch.where(mask, torch.tensor(advantages)[:, None], 0.0)
        return per_turn(merged_turns(given, mask, turn_ids, state_ids, action_ids, group_ids), data)

    def test_what_success_and_failure_share_is_credited_with_neither(self):
        """Both go from 0 to 1 by action 5, and part there."""
        assert self.merged([[0, 1], [0, 1]], [[5, 6], [5, 7]], [1.0, -1.0]) == [[0, 1], [0, -1]]

    def test_the_state_before_and_after_belong_to_an_edge(self):
        assert self.merged([[0, 1], [2, 1]], [[5, 6], [5, 7]], [1.0, -1.0]) == [[1, 1], [-1, -1]]
        assert self.merged([[0, 1], [0, 2]], [[5, 6], [5, 7]], [1.0, -1.0]) == [[1, 1], [-1, -1]]

    def test_a_trajectory_counts_once_on_an_edge_that_it_takes_twice(self):
        # the first goes round from 0 to 0 twice, the second once: (4 + 1) / 2
        found = self.merged([[0, 0, 0, 1], [0, 0, 2]], [[5, 5, 6, 7], [5, 8, 9]], [4.0, 1.0])
        assert found == [[2.5, 2.5, 4, 4], [2.5, 1, 1]]

    def test_three_of_which_two_fail(self):
        found = self.merged([[0, 1]] * 3, [[5, 6], [5, 7], [5, 7]], [2.0, -1.0, -1.0])
        assert found == [[0, 2], [0, -1], [0, -1]]

    def test_unknown_states_and_other_groups_share_nothing(self):
        assert self.merged([[-1], [-1]], [[5], [5]], [1.0, -1.0]) == [[1], [-1]]
        assert self.merged([[0], [0]], [[-1], [-1]], [1.0, -1.0]) == [[1], [-1]]
        assert self.merged([[0], [0]], [[5], [5]], [1.0, -1.0], [0, 1]) == [[1], [-1]]

    def test_the_credit_of_a_group_stays_what_it_is_in_sum(self):
        states, actions, own = [[0, 1, 2], [0, 1], [0, 3]], [[5, 6, 7], [5, 8], [9, 6]], [1.0, -0.5, -0.5]
        found = self.merged(states, actions, own)
        assert sum(map(sum, found)) == pytest.approx(sum(a * len(s) for a, s in zip(own, states, strict=True)))


class TestTurnDuration:
    def test_by_hand(self):
        """10 and 30 seconds: .5 and 1.5, whatever the turns' lengths."""
        turns = torch.tensor([[0, 0, 0, -1, 1]])
        seconds = torch.tensor([[10.0, 10, 10, 99, 30]])
        assert turn_duration(seconds, turns >= 0, turns).tolist() == [[0.5, 0.5, 0.5, 0, 1.5]]

    def test_where_nothing_was_timed_all_weigh_the_same(self):
        turns = torch.tensor([[0, 1, -1]])
        assert turn_duration(torch.zeros(1, 3), turns >= 0, turns).tolist() == [[1, 1, 0]]

    def test_scale_and_rows(self):
        turns = torch.tensor([[0, 1, 2], [0, 1, -1]])
        seconds = torch.tensor([[1.0, 2, 3], [4, 5, 0]])
        found = turn_duration(seconds, turns >= 0, turns)
        torch.testing.assert_close(turn_duration(7 * seconds, turns >= 0, turns), found)
        torch.testing.assert_close(turn_duration(seconds.flip(0), turns.flip(0) >= 0, turns.flip(0)), found.flip(0))
        assert found[turns >= 0].mean().item() == pytest.approx(1)


def _merged(data: Data) -> Credit:
    rewards, mask, turn_ids, state_ids, groups = data
    own = grpo(rewards, mask, groups).advantages
    return Credit(merged_turns(own, mask, turn_ids, state_ids, state_ids, groups))


def _components(data: Data) -> tuple[Tensor, ...]:
    rewards, mask, turn_ids, _, groups = data
    return torch.where(mask, rewards, 0.0).sum(dim=1, keepdim=True), rewards, mask, turn_ids, groups


ALL = {
    "state_grpo": lambda data: state_grpo(*data, std_floor=1e-9),
    "state_returns": lambda data: state_returns(*data, gamma=0.9),
    "merged_turns": _merged,
    "first_turn_grpo": lambda data: first_turn_grpo(*_components(data), std_floor=1e-9),
    "turn_grpo": lambda data: turn_grpo(*_components(data), std_floor=1e-9),
}
UNCHANGED_BY_SCALE = {"state_grpo", "merged_turns", "first_turn_grpo", "turn_grpo"}


def random_data(seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 5, (6,), generator=generator).tolist()
    states = [[0, *torch.randint(0, 3, (n - 1,), generator=generator).tolist()] for n in lengths]
    rewards = [torch.randn(n, generator=generator).tolist() for n in lengths]
    return laid_out(states, rewards, torch.randint(0, 2, (6,), generator=generator).tolist())


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(6)))
def test_rows_observations_and_scale(name, seed, order):
    """Permuted rows have permuted credit; what observations hold has no influence; scaled rewards scale credit."""
    rewards, mask, turn_ids, state_ids, groups = data = random_data(seed)
    found = ALL[name](data).advantages
    permuted = ALL[name](tuple(tensor[list(order)] for tensor in data)).advantages
    torch.testing.assert_close(permuted, found[list(order)])
    junk = (
        torch.where(mask, rewards, math.nan),
        mask,
        *(torch.where(mask, x, 77) for x in (turn_ids, state_ids)),
        groups,
    )
    assert torch.equal(ALL[name](junk).advantages, found)
    scaled = ALL[name]((3 * rewards, *data[1:])).advantages
    torch.testing.assert_close(scaled, found if name in UNCHANGED_BY_SCALE else 3 * found, atol=1e-4, rtol=1e-4)

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from llmrl.ops.advantages.group import grpo
from llmrl.ops.advantages.turns import first_turn_grpo, process_rloo, step_grpo, turn_grpo

NAN = math.nan
HALF = math.sqrt(0.5)  # 1/2 over the unbiased std of two numbers 1 apart
FLOOR = 1e-12
exact = partial(turn_grpo, std_floor=FLOOR)


def laid_out(rows: list[str], turn_rewards: list[list[float | None]], outcomes: list[float], groups: list[int]):
    """Rows such as "PAAEBB": prompt, turns A, B, C .. of the actor, environment; one reward or none for each turn."""
    width = max(map(len, rows))
    turn_ids = torch.tensor([["ABCD".find(row[t : t + 1] or "P") for t in range(width)] for row in rows])
    given = torch.full(turn_ids.shape, NAN)
    for i, rewards in enumerate(turn_rewards):
        for k, reward in enumerate(rewards):
            if reward is not None:
                given[i, turn_ids[i].eq(k).nonzero().max()] = reward
    components = torch.tensor(outcomes)[:, None]
    return components, given, turn_ids >= 0, turn_ids, torch.tensor(groups)


def test_a_call_that_failed_among_three():
    """One prompt, two trajectories: the first calls twice (ran, failed) and is right, the second once (ran) and wrong.

    outcomes 1, 0: mean 1/2, std sqrt(1/2): +-0.707107 on all tokens
    calls 1, 0, 1: mean 2/3, std sqrt(1/3): (1/3) / 0.577350 = 0.577350, (-2/3) / 0.577350 = -1.154701
    """
    data = laid_out(["PAAEBECC", "PPAEEBBB"], [[1, 0, None], [1, None]], [1, 0], [5, 5])
    found = exact(*data).advantages
    a, b = HALF + 0.577350, HALF - 1.154701
    c = -HALF + 0.577350
    expected = [[0, a, a, 0, b, 0, HALF, HALF], [0, 0, c, 0, 0, -HALF, -HALF, -HALF]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)

    # without dividing: 1/2 and (1/3, -2/3); half the weight of the calls
    found = turn_grpo(*data, normalize_std=False, turn_weight=0.5).advantages
    expected = [[0, 2 / 3, 2 / 3, 0, 1 / 6, 0, 0.5, 0.5], [0, 0, -1 / 3, 0, 0, -0.5, -0.5, -0.5]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_turn_rewards_before_the_first_result_alone():
    """Two trajectories that used the tool, and one that did not; all divided by std sqrt(1/3) of 1, 1, 0 or 1, 0, 0.

    outcomes 1, 0, 0: 2/3, -1/3, -1/3 over .577350; turn rewards 0, 1 and none, which is 0: -1/3, 2/3, -1/3
    both together 1, 1, 0: 1/3, 1/3, -2/3: the third's credit on all its tokens
    """
    data = laid_out(["PAAEB", "PAEBB", "PAAAA"], [[0, None], [1, None], [None]], [1, 0, 0], [7, 7, 7])
    unit = math.sqrt(3)  # 1 over the std
    found = first_turn_grpo(*data, std_floor=FLOOR).advantages
    first, later, none = (1 / 3) * unit, (2 / 3) * unit, (-2 / 3) * unit
    expected = [[0, first, first, 0, later], [0, first, 0, -first, -first], [0, none, none, none, none]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("weight", "before"), [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_the_coefficient_of_the_turn_before_the_result(weight, before):
    """Outcome +1 and turn -1, both in units of half their range: 0 before the result, +1 after it."""
    data = laid_out(["PAEB", "PAEB"], [[0, None], [2, None]], [2, 0], [0, 0])
    found = first_turn_grpo(*data, turn_weight=weight, normalize_std=False).advantages
    assert found.tolist() == [[0, before, 0, 1], [0, -before, 0, -1]]


def test_the_floor_is_added_to_both_stds():
    # outcomes 1, 0 and calls 1, 0: 1/2 over (sqrt(1/2) + 1/2)
    data = laid_out(["PAB", "PAB"], [[1, None], [0, None]], [1, 0], [0, 0])
    found = turn_grpo(*data, std_floor=0.5).advantages
    part = 0.5 / (HALF + 0.5)
    torch.testing.assert_close(found, torch.tensor([[0, 2 * part, part], [0, -2 * part, -part]]))


def test_a_failed_call_of_reward_zero_in_the_last_turn_counts():
    """It is the same number as no call, and not the same thing: calls 0 and 1 are compared, the third turn is not."""
    data = laid_out(["PA", "PA", "PA"], [[0], [1], [None]], [0, 0, 0], [0, 0, 0])
    assert exact(*data).advantages[:, 1].tolist() == pytest.approx([-HALF, HALF, 0.0])


def test_turns_are_pooled_whatever_their_number():
    """The same calls as the first and the second turn, or all of one trajectory: their credit is the same."""
    together = laid_out(["PABCD", "PA"], [[1, 0, 0, 1], [None]], [0, 0], [0, 0])
    apart = laid_out(["PABC", "PABC"], [[None, 1, 0], [0, None, 1]], [0, 0], [0, 0])
    part = 0.5 / math.sqrt(1 / 3)
    assert exact(*together).advantages[0].tolist() == pytest.approx([0, part, -part, -part, part])
    assert exact(*apart).advantages.tolist() == [
        pytest.approx([0, 0, part, -part]),
        pytest.approx([0, -part, 0, part]),
    ]


def test_trajectories_with_a_failed_turn_are_left_out_of_the_outcomes():
    """Of outcomes 1, 0, 1 the last has a failed call: 1 and 0 are compared, and it gets the credit of its calls alone.

    calls 1, 1, 0, 1: mean 3/4, std 1/2: +-0.5, -1.5
    """
    data = laid_out(["PAC", "PAC", "PABC"], [[1], [1], [0, 1]], [1, 0, 1], [3, 3, 3])
    found = exact(*data, min_turn_reward=1.0).advantages
    expected = [[0, 0.5 + HALF, HALF, 0], [0, 0.5 - HALF, -HALF, 0], [0, -1.5, 0.5, 0]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)
    # without the setting the outcomes are 1, 0, 1
    third = exact(*data).advantages[2, 3].item()
    assert third == pytest.approx((1 / 3) / math.sqrt(1 / 3))


def test_the_least_turn_reward_is_no_failure():
    """0.7 is not an fp32 number; as a setting and as a reward it is the same."""
    data = laid_out(["PA", "PA"], [[0.7], [0.7]], [1, 0], [0, 0])
    assert exact(*data, min_turn_reward=0.7).advantages[:, 1].tolist() == pytest.approx([HALF, -HALF])


def test_nothing_to_compare_with_is_exactly_zero():
    alone = laid_out(["PAB"], [[0.1, None]], [0.3], [9])
    equal = laid_out(["PABB", "PAAC", "PA"], [[0.1, 0.1], [0.1, None], [0.1]], [0.3] * 3, [1, 1, 1])
    for data in (alone, equal):
        assert not turn_grpo(*data).advantages.any()


def test_several_components_are_one_outcome():
    _, *rest = laid_out(["PA", "PA"], [[None], [None]], [0, 0], [0, 0])
    components = torch.tensor([[0.1, 0.2, -5.0], [0.2, 0.1, -5.0]])
    assert not turn_grpo(components, *rest).advantages.any()
    components = torch.tensor([[1.0, 0.5], [0.5, 0.5]])
    assert turn_grpo(components, *rest, normalize_std=False).advantages[:, 1].tolist() == [0.25, -0.25]


def turns(mask: Tensor) -> Tensor:
    """Each unbroken run of response tokens is a turn: 0, 1, ... along a row, -1 off the response."""
    starts = mask & ~torch.nn.functional.pad(mask[:, :-1], (1, 0))
    return torch.where(mask, starts.cumsum(1) - 1, -1)


def random_data(ragged, seed: int):
    """Every second turn on average was given a reward; off the response lies rubbish."""
    rows = ragged(seed, rows=13, width=24)
    turn_ids = turns(rows.mask)
    ends = rows.mask & (turn_ids != torch.nn.functional.pad(turn_ids[:, 1:], (0, 1), value=-2))
    given = ends & (rows.noise() > 0)
    turn_rewards = torch.where(given, rows.noise().round(decimals=1), NAN)
    turn_rewards = torch.where(rows.mask, turn_rewards, rows.noise())
    components = torch.randn(13, 2, generator=rows.generator).round(decimals=1)
    return components, turn_rewards, rows.mask, turn_ids, rows.group_ids


def standardized(value: float, among: list[float], floor: float) -> float:
    mean = sum(among) / len(among)
    std = math.sqrt(sum((x - mean) ** 2 for x in among) / max(len(among) - 1, 1))
    return (value - mean) / (std + floor)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("least", [None, 0.2])
def test_naive_loop(ragged, seed, least):
    components, turn_rewards, mask, turn_ids, group_ids = random_data(ragged, seed)
    floor, weight = 0.01, 0.7
    rewarded: dict[tuple[int, int], float] = {}
    for i in range(len(mask)):
        for t in range(mask.shape[1]):
            if mask[i, t] and not math.isnan(turn_rewards[i, t]):
                rewarded[i, int(turn_ids[i, t])] = turn_rewards[i, t].item()
    speaks = [i for i in range(len(mask)) if mask[i].any()]
    failed = {i for (i, _), reward in rewarded.items() if least is not None and reward < least}
    outcome = {i: components[i].double().sum().item() for i in speaks if i not in failed}
    expected = torch.zeros(mask.shape)
    for i in speaks:
        group = int(group_ids[i])
        calls = [reward for (j, _), reward in rewarded.items() if group_ids[j] == group]
        for t in mask[i].nonzero().flatten().tolist():
            if i in outcome:
                others = [outcome[j] for j in outcome if group_ids[j] == group]
                expected[i, t] += standardized(outcome[i], others, floor)
            if (i, int(turn_ids[i, t])) in rewarded:
                expected[i, t] += weight * standardized(rewarded[i, int(turn_ids[i, t])], calls, floor)
    data = components, turn_rewards, mask, turn_ids, group_ids
    found = turn_grpo(*data, turn_weight=weight, std_floor=floor, min_turn_reward=least).advantages
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.dtype == torch.float32
    assert rewarded and (least is None or failed)


def test_without_turn_rewards_it_is_grpo(ragged):
    components, turn_rewards, mask, turn_ids, group_ids = random_data(ragged, 3)
    silent = torch.full_like(turn_rewards, NAN)
    found = turn_grpo(components, silent, mask, turn_ids, group_ids).advantages
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    rewards = torch.where(last, components.double().sum(1)[:, None], 0.0)
    torch.testing.assert_close(found, grpo(rewards, mask, group_ids).advantages)


def test_with_every_turn_rewarded_and_one_turn_each_the_parts_are_both_grpo(ragged):
    rows = ragged(4)
    turn_ids = torch.where(rows.mask, 0, -1)
    last = rows.mask & (rows.mask.flip(1).cumsum(1).flip(1) == 1)
    outcomes, steps = rows.rewards(), rows.rewards()
    components = torch.where(last, outcomes, 0.0).sum(1)[:, None]
    turn_rewards = torch.where(last, steps, NAN)
    found = turn_grpo(components, turn_rewards, rows.mask, turn_ids, rows.group_ids, turn_weight=2.0).advantages
    parts = [grpo(torch.where(last, x, 0.0), rows.mask, rows.group_ids).advantages for x in (outcomes, steps)]
    torch.testing.assert_close(found, parts[0] + 2 * parts[1])


@pytest.mark.parametrize("settings", [{}, {"min_turn_reward": 0.0}, {"normalize_std": False}])
def test_what_changes_nothing(ragged, settings):
    components, turn_rewards, mask, turn_ids, group_ids = random_data(ragged, 7)
    found = turn_grpo(components, turn_rewards, mask, turn_ids, group_ids, **settings).advantages
    assert found.ne(0).any() and not found[~mask].any()
    # the order of the rows
    order = torch.randperm(len(mask), generator=torch.Generator().manual_seed(0))
    shuffled = turn_grpo(*(x[order] for x in (components, turn_rewards, mask, turn_ids, group_ids)), **settings)
    torch.testing.assert_close(shuffled.advantages, found[order])
    # padding, and what lies off the response
    rubbish = torch.where(mask, turn_rewards, math.inf)
    padded = [
        torch.nn.functional.pad(x, (0, 3), value=value) for x, value in ((rubbish, NAN), (mask, 0), (turn_ids, -1))
    ]
    torch.testing.assert_close(turn_grpo(components, *padded, group_ids, **settings).advantages[:, :-3], found)
    # what a group's outcomes and calls have in common
    if not settings:
        moved = turn_grpo(components + 3, turn_rewards + 2, mask, turn_ids, group_ids).advantages
        torch.testing.assert_close(moved, found, atol=1e-4, rtol=1e-4)
    # a row without response tokens
    silent = ~mask.any(dim=1)
    assert silent.any()
    components[silent] = NAN
    torch.testing.assert_close(
        turn_grpo(components, turn_rewards, mask, turn_ids, group_ids, **settings).advantages, found
    )


def test_the_parts_are_scaled_apart(ragged):
    """Turn rewards a thousand times as large weigh no more."""
    components, turn_rewards, mask, turn_ids, group_ids = random_data(ragged, 2)
    small = exact(components, turn_rewards, mask, turn_ids, group_ids).advantages
    large = exact(components, 1000 * turn_rewards, mask, turn_ids, group_ids).advantages
    torch.testing.assert_close(large, small, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"std_floor": 0.0}, r"std_floor: 0\.0 is not valid"),
        ({"turn_weight": -1.0}, r"turn_weight: -1\.0 is not valid"),
    ],
)
def test_settings_out_of_range(settings, fault):
    with pytest.raises(ValueError, match=fault):
        turn_grpo(*laid_out(["PA"], [[1]], [1], [0]), **settings)


def test_the_steps_to_come_are_added_up():
    """One prompt, an answer of two steps (1, 0) that is right, and one of a single step (1) that is wrong.

    outcomes 1, 0: +-0.707107; steps 1, 0, 1: 0.577350, -1.154701, 0.577350
    first answer: before the end of step 1 both steps count, 0.577350 - 1.154701, then the second alone, then none
    """
    data = laid_out(["PAAEBBC", "PPAA"], [[1, 0, None], [1]], [1, 0], [5, 5])
    components, given, mask, _, groups = data
    found = step_grpo(components, given, mask, groups, std_floor=FLOOR).advantages
    both, second = HALF - 0.577350, HALF - 1.154701
    other = -HALF + 0.577350
    expected = [[0, both, both, 0, second, second, HALF], [0, 0, other, other, 0, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)
    alone = step_grpo(components, given, mask, groups, outcome_weight=0.0, normalize_std=False).advantages
    third = 1 / 3
    expected = [[0, -third, -third, 0, -2 * third, -2 * third, 0], [0, 0, third, third, 0, 0, 0]]
    torch.testing.assert_close(alone, torch.tensor(expected), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="outcome_weight"):
        step_grpo(components, given, mask, groups, outcome_weight=-1.0)


def test_process_rewards_against_those_of_the_others():
    """One prompt: token rewards (1, 3) with outcome 1, and (0.5) with outcome 0; another prompt's answer is alone.

    means 2 and 0.5, so the first's rewards less 0.5 are 0.5, 2.5 and the second's less 2 is -1.5
    gamma 1/2: to come 0.5 + 2.5 / 2 = 1.75, 2.5; outcomes 1 - 0 = 1 and -1
    the environment's tokens between the first answer's two discount nothing
    """
    mask = torch.tensor([[0, 1, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0]]).bool()
    given = torch.tensor([[NAN, 1, NAN, 3], [NAN, 0.5, NAN, NAN], [NAN, 7, NAN, NAN]])
    components, groups = torch.tensor([[1.0], [0], [5]]), torch.tensor([2, 2, 9])
    found = process_rloo(components, given, mask, groups, gamma=0.5).advantages
    torch.testing.assert_close(found, torch.tensor([[0, 2.75, 0, 3.5], [0, -2.5, 0, 0], [0, 0, 0, 0]]))
    with pytest.raises(ValueError, match="gamma"):
        process_rloo(components, given, mask, groups, gamma=2.0)

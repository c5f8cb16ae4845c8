from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.ops.advantages.group import asymre, gdpo, grpo, opmd, opo, rloo

GROUPED = {
    "grpo": grpo,
    "dr_grpo": partial(grpo, normalize_std=False),
    "lite_ppo": partial(grpo, batch_std=True),
    "whitened": partial(grpo, normalize_std=False, whiten=True),
    "rloo": rloo,
    "opo": opo,
    "asymre": asymre,
    "opmd": opmd,
    "opmd_cold": partial(opmd, temperature=0.3),
}
seeds = st.integers(0, 10_000)


def trajectory_rewards(*values: float):
    """One response token per trajectory, its reward the outcome."""
    rewards = torch.tensor(values)[:, None]
    return rewards, torch.ones_like(rewards, dtype=torch.bool)


def credit(function, values, group_ids):
    return function(*trajectory_rewards(*values), torch.tensor(group_ids)).advantages[:, 0].tolist()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # R = [1, 0, 0, 0]: mean 1/4, unbiased variance (9/16 + 3/16) / 3 = 1/4, std 1/2
        ("grpo", [1.499997, -0.499999, -0.499999, -0.499999]),  # (3/4) / (1/2 + 1e-6)
        ("lite_ppo", [1.499997, -0.499999, -0.499999, -0.499999]),  # one group is the batch
        ("whitened", [1.5, -0.5, -0.5, -0.5]),
        ("dr_grpo", [0.75, -0.25, -0.25, -0.25]),
        ("rloo", [1, -1 / 3, -1 / 3, -1 / 3]),  # 1 - 0 and 0 - 1/3
        ("opo", [0.75, -0.25, -0.25, -0.25]),  # equal lengths: the plain mean
        ("asymre", [0.85, -0.15, -0.15, -0.15]),  # 3/4 + 0.1 and -1/4 + 0.1
        ("opmd", [1 - 0.357374] + [-0.357374] * 3),  # log((e + 3) / 4) = 0.357374
    ],
)
def test_one_of_four_correct(name, expected):
    assert credit(GROUPED[name], [1, 0, 0, 0], [5, 5, 5, 5]) == pytest.approx(expected, abs=1e-6)


def test_std_floor_is_added_to_the_std():
    advantages = grpo(*trajectory_rewards(1, 0, 0, 0), torch.zeros(4, dtype=torch.long), std_floor=0.5).advantages
    assert advantages[0].item() == pytest.approx(0.75)  # (3/4) / (1/2 + 1/2)


@pytest.mark.parametrize(
    ("function", "wrong", "message"),
    [
        (grpo, {"std_floor": 0}, "std_floor: 0 is not valid"),
        (grpo, {"batch_std": True, "normalize_std": False}, "batch_std: True is not valid, expected False"),
        (opmd, {"temperature": 0.0}, "temperature: 0.0 is not valid"),
    ],
)
def test_settings_out_of_range(function, wrong, message):
    with pytest.raises(ValueError, match=message):
        function(*trajectory_rewards(1.0, 0.0), torch.zeros(2, dtype=torch.long), **wrong)


def test_groups_of_different_sizes_with_members_apart():
    # group 9: 3, 1, 2, mean 2; group 4: 1, 0, mean 1/2; group 7 alone
    values, ids = [3, 1, 1, 8, 0, 2], [9, 4, 9, 7, 4, 9]
    assert credit(GROUPED["dr_grpo"], values, ids) == pytest.approx([1, 0.5, -1, 0, -0.5, 0])
    assert credit(rloo, values, ids) == pytest.approx([1.5, 1, -1.5, 0, -1, 0])  # times 3/2 and 2
    # std 1 and sqrt(1/2)
    assert credit(grpo, values, ids) == pytest.approx([1, 0.70711, -1, 0, -0.70711, 0], abs=1e-5)
    assert credit(asymre, values, ids) == pytest.approx([1.1, 0.6, -0.9, 0.1, -0.4, 0.1])


def test_std_of_the_batch_is_of_outcomes_not_of_what_the_baseline_leaves():
    # groups 4, 2 and 1, 1: centred 1, -1, 0, 0; outcomes have mean 2, unbiased variance (4 + 0 + 1 + 1) / 3 = 2
    found = credit(GROUPED["lite_ppo"], [4, 2, 1, 1], [0, 0, 1, 1])
    assert found == pytest.approx([0.707106, -0.707106, 0, 0], abs=1e-5)


def test_whitening_is_over_tokens():
    # one group, outcomes 1 on three tokens and 0 on one: centred 1/2 x3, -1/2, mean over tokens 1/4
    # deviations 1/4 x3, -3/4: unbiased variance (3/16 + 9/16) / 3 = 1/4, so std 1/2
    rewards = torch.tensor([[0.0, 0, 1], [0, 0, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    found = GROUPED["whitened"](rewards, mask, torch.tensor([2, 2])).advantages
    assert found.tolist() == [[0.5, 0.5, 0.5], [-1.5, 0, 0]]


def test_opo_weighs_by_length():
    # R = [1, 0, 0, 0], L = [1, 2, 3, 4] hundred tokens: b = 100 / 1000
    lengths = torch.tensor([100, 200, 300, 400])[:, None]
    mask = torch.arange(400) < lengths
    rewards = torch.zeros(4, 400)
    rewards[0, 99] = 1
    found = opo(rewards, mask, torch.zeros(4, dtype=torch.long)).advantages
    torch.testing.assert_close(found, torch.where(mask, torch.tensor([0.9, -0.1, -0.1, -0.1])[:, None], 0.0))


def test_opmd_baseline_runs_from_the_mean_to_the_maximum():
    hot = credit(partial(opmd, temperature=1e6), [3, 1, 2], [0, 0, 0])
    assert hot == pytest.approx([1, -1, 0], abs=1e-5)
    # exp(3000) is no float: max - temperature * log 3 is
    cold = credit(partial(opmd, temperature=1e-3), [3, 1, 2], [0, 0, 0])
    assert cold == pytest.approx([0.001098612, -2 + 0.001098612, -1 + 0.001098612])


def test_outcome_is_the_sum_over_turns_and_lands_on_response_tokens_only():
    # row 0: turn rewards 1 + 2 = 3; row 1: 1; the rewards 50 sit off the response and do not count
    rewards = torch.tensor([[50.0, 0, 1, 50, 2, 0], [0, 0, 1, 50, 50, 50]])
    mask = torch.tensor([[0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 0, 0]], dtype=torch.bool)
    found = grpo(rewards, mask, torch.tensor([0, 0]), normalize_std=False)
    assert found.advantages.tolist() == [[0, 1, 1, 0, 1, 0], [0, -1, -1, 0, 0, 0]]
    assert found.returns is None


@pytest.mark.parametrize("name", GROUPED)
def test_a_trajectory_without_response_tokens_is_in_no_group(name):
    rewards, mask = trajectory_rewards(1, 0, 9)
    mask[2] = False
    with_empty = GROUPED[name](rewards, mask, torch.tensor([0, 0, 0])).advantages
    alone = GROUPED[name](rewards[:2], mask[:2], torch.tensor([0, 0])).advantages
    assert torch.equal(with_empty, torch.cat([alone, torch.zeros(1, 1)]))


def naive(name: str, i: int, group: list[int], totals: dict[int, float], lengths: dict[int, int]) -> float:
    """The credit of row i by the definition, from all rows' outcomes and lengths."""
    mine, n = [totals[j] for j in group], len(group)
    mean = sum(mine) / n

    def std(values):
        centre = sum(values) / len(values)
        return math.sqrt(sum((x - centre) ** 2 for x in values) / max(len(values) - 1, 1))

    return {
        "grpo": lambda: (totals[i] - mean) / (std(mine) + 1e-6),
        "dr_grpo": lambda: totals[i] - mean,
        "lite_ppo": lambda: (totals[i] - mean) / (std(list(totals.values())) + 1e-6),
        "rloo": lambda: totals[i] - (sum(mine) - totals[i]) / (n - 1) if n > 1 else 0.0,
        "opo": lambda: totals[i] - sum(lengths[j] * totals[j] for j in group) / sum(lengths[j] for j in group),
        "asymre": lambda: totals[i] - mean + 0.1,
        "opmd": lambda: totals[i] - math.log(sum(math.exp(x) for x in mine) / n),
        "opmd_cold": lambda: totals[i] - 0.3 * math.log(sum(math.exp(x / 0.3) for x in mine) / n),
    }[name]()


@pytest.mark.parametrize("name", sorted(set(GROUPED) - {"whitened"}))
def test_naive_loop(ragged, name):
    for seed in range(5):
        rows = ragged(seed)
        rewards = rows.rewards()
        found = GROUPED[name](rewards, rows.mask, rows.group_ids).advantages
        there = [i for i in range(len(rewards)) if rows.mask[i].any()]
        totals = {i: rewards[i].double().sum().item() for i in there}
        lengths = {i: int(rows.mask[i].sum()) for i in there}
        for i in there:
            group = [j for j in there if rows.group_ids[j] == rows.group_ids[i]]
            expected = torch.where(rows.mask[i], naive(name, i, group, totals, lengths), 0.0)
            torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normalize_std", [True, False])
def test_whitened_naive_loop(ragged, normalize_std):
    rows = ragged(4)
    rewards = rows.rewards()
    plain = grpo(rewards, rows.mask, rows.group_ids, normalize_std=normalize_std).advantages
    found = grpo(rewards, rows.mask, rows.group_ids, normalize_std=normalize_std, whiten=True).advantages
    tokens = plain[rows.mask]
    torch.testing.assert_close(found[rows.mask], (tokens - tokens.mean()) / tokens.std(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(GROUPED) - {"asymre"}))
@settings(max_examples=25)
@given(value=st.floats(-100, 100, width=32), other=st.floats(-100, 100, width=32), size=st.integers(1, 13))
def test_equal_outcomes_in_every_group_give_exactly_zero(name, value, other, size):
    # two groups, rows of lengths 1 to 2 size, the outcome on the last response token
    mask = torch.arange(2 * size) <= torch.arange(2 * size)[:, None]
    rewards = torch.diag(torch.tensor([value] * size + [other] * size))
    found = GROUPED[name](rewards, mask, torch.tensor([3] * size + [1] * size)).advantages
    assert torch.equal(found, torch.zeros_like(rewards))


@pytest.mark.parametrize("name", GROUPED)
@settings(max_examples=25)
@given(seed=seeds, offset=st.floats(-10, 10))
def test_a_constant_added_to_every_outcome_changes_nothing(ragged, name, seed, offset):
    rows = ragged(seed)
    rewards = rows.rewards()
    first = rows.mask & (rows.mask.cumsum(1) == 1)
    plain = GROUPED[name](rewards, rows.mask, rows.group_ids).advantages
    shifted = GROUPED[name](rewards + offset * first, rows.mask, rows.group_ids).advantages
    torch.testing.assert_close(shifted, plain, atol=1e-3 if name == "grpo" else 1e-4, rtol=1e-3)


@settings(max_examples=50)
@given(seed=seeds)
def test_rloo_is_a_multiple_of_grpo_without_std(ragged, seed):
    rows = ragged(seed)
    rewards = rows.rewards()
    present = rows.mask.any(1)
    sizes = torch.stack([((rows.group_ids == group) & present).sum() for group in rows.group_ids])
    scale = torch.where(sizes > 1, sizes / (sizes - 1).clamp(min=1), 0.0)[:, None]
    centred = grpo(rewards, rows.mask, rows.group_ids, normalize_std=False).advantages
    torch.testing.assert_close(rloo(rewards, rows.mask, rows.group_ids).advantages, scale * centred)


# gdpo: several rewards


def components(*columns: list[float]):
    """Reward components, one response token per trajectory, one group."""
    found = torch.tensor(columns).T
    return found, torch.ones(len(found), 1, dtype=torch.bool), torch.zeros(len(found), dtype=torch.long)


def test_gdpo_standardizes_each_reward_then_whitens_the_sum():
    # both rewards: mean 1/2, unbiased variance 4/16 * 4/3 = 1/3, so z = +-0.866025; z_1 + z_2 / 2 =
    # [.433012, -1.299036, 1.299036, -.433012], mean 0, unbiased variance (2 * .1875 + 2 * 1.6875) / 3 = 1.25
    data = components([1, 0, 1, 0], [0, 0, 1, 1])
    found = gdpo(*data, weights=[1, 0.5]).advantages[:, 0].tolist()
    assert found == pytest.approx([0.387298, -1.161895, 1.161895, -0.387298], abs=1e-6)
    # weights not given are 1: z_1 + z_2 = 1.732051 [0, -1, 1, 0], unbiased variance 2, over sqrt(2)
    assert gdpo(*data).advantages[:, 0].tolist() == pytest.approx([0, -1.224745, 1.224745, 0], abs=1e-6)


def test_gdpo_keeps_apart_what_a_standardized_sum_makes_one():
    # group 0: one reward of the two, or none; group 1: both, or none. The sums 0, 1 and 0, 2 standardize alike;
    # z by reward are +-.707107 where it varies, so s = -+.707107, -+1.414214, variance (2 * .5 + 2 * 2) / 3 = 5/3
    values = torch.tensor([[0.0, 0], [1, 0], [0, 0], [1, 1]])
    mask, ids = torch.ones(4, 1, dtype=torch.bool), torch.tensor([0, 0, 1, 1])
    summed = grpo(values.sum(1, keepdim=True), mask, ids).advantages[:, 0].tolist()
    assert summed == pytest.approx([-0.707106, 0.707106, -0.707106, 0.707106], abs=1e-5)
    apart = gdpo(values, mask, ids).advantages[:, 0].tolist()
    assert apart == pytest.approx([-0.547723, 0.547723, -1.095445, 1.095445], abs=1e-5)


def test_gdpo_ignores_the_size_of_the_weights_in_the_components_but_not_their_sign():
    values, mask, ids = components([1, 0, 1, 0], [0, 0, 1, 1])
    plain = gdpo(values, mask, ids).advantages
    torch.testing.assert_close(gdpo(values * torch.tensor([10, 0.1]), mask, ids).advantages, plain, atol=1e-4, rtol=0)
    # less of the second: z_1 - z_2 = 1.732051 [1, 0, 0, -1], over sqrt(2)
    found = gdpo(values * torch.tensor([1, -1]), mask, ids).advantages[:, 0].tolist()
    assert found == pytest.approx([1.224745, 0, 0, -1.224745], abs=1e-6)


def test_gdpo_naive_loop(ragged):
    rows = ragged(6, rows=14)
    there = rows.mask.any(1)
    values = torch.randn(14, 3, generator=rows.generator)
    values[~there] = math.nan
    weights = [1.0, 0.25, 2.0]
    sums = {}
    for i in there.nonzero().flatten().tolist():
        group = values[there & (rows.group_ids == rows.group_ids[i])]
        scores = (values[i] - group.mean(0)) / (group.std(0) + 1e-6) if len(group) > 1 else torch.zeros(3)
        sums[i] = sum(w * z for w, z in zip(weights, scores.tolist(), strict=True))
    mean = sum(sums.values()) / len(sums)
    std = math.sqrt(sum((x - mean) ** 2 for x in sums.values()) / (len(sums) - 1))
    found = gdpo(values, rows.mask, rows.group_ids, weights=weights).advantages
    for i in range(14):
        expected = torch.where(rows.mask[i], (sums[i] - mean) / std if there[i] else 0.0, 0.0)
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-5)


def test_gdpo_of_equal_rewards_is_exactly_zero():
    assert not gdpo(*components([0.1, 0.1, 0.1], [7, 7, 7])).advantages.any()


def test_gdpo_wants_a_weight_per_reward():
    with pytest.raises(ValueError, match=r"weights: \[1.0\] is not valid, expected one number for each of 2"):
        gdpo(*components([1, 0], [0, 1]), weights=[1.0])
    with pytest.raises(ValueError, match="std_floor: -1"):
        gdpo(*components([1, 0], [0, 1]), std_floor=-1)

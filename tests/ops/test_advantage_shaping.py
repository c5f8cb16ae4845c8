from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrl.ops.advantage_shaping.process import rectify
from llmrl.ops.advantage_shaping.tokens import value_spread, whiten
from llmrl.ops.advantage_shaping.trajectories import length_control, novelty

NAN = math.nan
START = torch.tensor(0.0)


def one_group(size: int):
    return torch.zeros(size, dtype=torch.long)


def single(*values: float):
    """One response token per trajectory."""
    column = torch.tensor(values)[:, None]
    return column, torch.ones_like(column, dtype=torch.bool)


def test_novelty_golden():
    # mean -.6: eta = exp(.3), 1, exp(-.3) = .740818; 2.5 * .259182 = .648, capped at half of A = 1
    advantages, mask = single(1, 1, 1)
    logprobs = torch.tensor([[-0.3], [-0.6], [-0.9]])
    found = novelty(advantages, logprobs, torch.ones(3), mask, one_group(3))
    assert found[:, 0].tolist() == [1, 1, 1.5]
    uncapped = novelty(advantages, logprobs, torch.ones(3), mask, one_group(3), cap=9.0, weight=1.0)
    assert uncapped[:, 0].tolist() == pytest.approx([1, 1, 1.259182])


def test_novelty_is_for_correct_ones_of_positive_advantage():
    # mean of all -1: the last four are less likely by exp(-1); wrong, unknown and A < 0 get nothing
    advantages, mask = single(1, 1, -1, 1, -1)
    logprobs = torch.tensor([[3.0], [-2], [-2], [-2], [-2]])
    correct = torch.tensor([1.0, 1, 0, NAN, 1])
    found = novelty(advantages, logprobs, correct, mask, one_group(5))
    assert found[:, 0].tolist() == [1, 1.5, -1, 1, -1]


@pytest.mark.parametrize(
    ("excess", "factor"),
    [(100, 1.000999), (1000, 1.009950), (10000, 1.095162), (0, 1.0), (-1, 1.0)],
)
def test_length_control_golden(excess, factor):
    # the correct ones have 1 and 3 tokens, mean 2; the wrong one 2 + excess
    lengths = torch.tensor([1, 3, 2 + excess])
    mask = torch.arange(10002) < lengths[:, None]
    advantages = torch.where(mask, torch.tensor([[0.5], [0.5], [-1.0]]), NAN)
    found = length_control(advantages, torch.tensor([1.0, 1, 0]), mask, one_group(3))
    assert found[2, 0].item() == pytest.approx(-factor, abs=1e-6)
    assert torch.equal(found[:2], torch.where(mask[:2], 0.5, 0.0))


def test_length_control_leaves_alone():
    # group 0 has no correct member; in group 1 the long one's advantage is above 0
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)
    advantages = torch.tensor([-1.0, -2, -1, 3])[:, None] * mask
    found = length_control(advantages, torch.tensor([0, NAN, 1, 0]), mask, torch.tensor([0, 0, 1, 1]), base=2.0)
    assert torch.equal(found, advantages)


def test_length_control_never_doubles():
    # 2 - 2^-1 = 1.5 for one token too many; 2 - 2^-2 = 1.75 for two
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    advantages = torch.tensor([1.0, -1, -1])[:, None] * mask
    found = length_control(advantages, torch.tensor([1.0, 0, 0]), mask, one_group(3), base=2.0)
    assert found[:, 0].tolist() == [1, -1.5, -1.75]
    with pytest.raises(ValueError, match=r"base: 0\.9"):
        length_control(advantages, torch.ones(3), mask, one_group(3), base=0.9)


def test_value_spread_reads_the_state_that_a_token_leads_to():
    # response tokens 1, 2, 4: their next states have std .2, .5 (over the hole at 3) and none
    # caps |A| / 3 = 1, 1/3, 2
    mask = torch.tensor([[0, 1, 1, 0, 1, 0]], dtype=torch.bool)
    advantages = torch.tensor([[NAN, 3, -1, NAN, 6, NAN]])
    std = torch.tensor([[NAN, 9, 0.2, NAN, 0.5, 7]])
    found = value_spread(advantages, std, START, mask)
    torch.testing.assert_close(found, torch.tensor([[0, 3.2, -2 / 3, 0, 6, 0]]))
    # third of four stairs: omega 3 * 1/3 = 1; min(3, 2), min(1, 5) and nothing
    found = value_spread(advantages, std, torch.tensor(0.5), mask, omega=3.0, alpha=10.0, kappa=1.0)
    torch.testing.assert_close(found, torch.tensor([[0, 5.0, 0, 0, 6, 0]]))
    assert torch.equal(value_spread(advantages, std, torch.tensor(0.9), mask), torch.where(mask, advantages, 0.0))


def test_value_spread_naive_loop(ragged):
    for seed in range(5):
        rows = ragged(seed)
        advantages, std = rows.noise(), rows.noise().abs()
        found = value_spread(advantages, std, torch.tensor(0.3), rows.mask, alpha=0.5)
        for i in range(len(found)):
            positions = rows.mask[i].nonzero()[:, 0].tolist()
            expected = torch.zeros_like(found[i])
            for rank, t in enumerate(positions):
                spread = std[i, positions[rank + 1]].item() if t != positions[-1] else 0.0
                value = advantages[i, t].item()
                expected[t] = value + 2 / 3 * min(abs(value) / 3, 0.5 * spread)
            torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-5)


def test_whiten_golden():
    # mean .477, squared deviations .000676 + .010609 + .005929 = .017214, unbiased std .092774
    advantages, mask = torch.tensor([[0.451, 0.58, NAN, 0.4]]), torch.tensor([[1, 1, 0, 1]], dtype=torch.bool)
    found = whiten(advantages, mask)
    expected = torch.tensor([[-0.280251, 1.110225, 0, -0.829974]])
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    assert found[mask].mean().item() == pytest.approx(0, abs=1e-6)
    assert found[mask].std().item() == pytest.approx(1, abs=1e-5)


@given(value=st.floats(-100, 100, width=32), size=st.integers(2, 13))
def test_whiten_equal_advantages_is_zero(value, size):
    assert not whiten(*single(*[value] * size)).any()


def magnitude(ratio: float) -> float:
    return 1 - math.tanh(ratio)


def test_rectify_by_hand():
    # row 0: J / J_b = -1/-2, -.5/-2; row 1: -4/-4; stability 0: S = 1 - tanh(J / J_b)
    answers = torch.tensor([[NAN, -2, NAN, -1, NAN, -0.5, NAN], [-9, -4, NAN, NAN, -4, NAN, NAN]])
    mask = torch.tensor([[0, 0, 1, 1, 0, 1, 1], [0, 0, 1, 1, 1, 0, 0]], dtype=torch.bool)
    steps = [magnitude(0.5), magnitude(0.25) - magnitude(0.5), magnitude(1.0)]
    mean = sum(steps) / 3
    std = math.sqrt(sum((step - mean) ** 2 for step in steps) / 2)
    a, b, c = ((step - mean) / std for step in steps)
    found = rectify(torch.full((2, 7), 5.0), answers, mask, one_group(2), weight=0.5, stability=0.0) - 5.0 * mask
    expected = [[0, 0, (a + b) / 2, (a + b) / 2, 0, b / 2, 0], [0, 0, c / 2, c / 2, c / 2, 0, 0]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_rectify_stability_is_kendalls_tau_of_the_prefix():
    # stability 1: S = (1 + tau) / 2. Row 0 rises: tau 0, 1, 1: S 1/2, 1, 1 and r 1/2, 1/2, 0.
    # row 1 = 2, 1, 3 (in tenths above -1): tau 0, -1, (2 - 1) / 3: S 1/2, 0, 2/3 and r 1/2, -1/2, 2/3
    answers = torch.tensor([[-1, -0.9, -0.8, -0.7], [-1, -0.8, -0.9, -0.7]])
    mask = torch.tensor([[0, 1, 1, 1]] * 2, dtype=torch.bool)
    steps = [1 / 2, 1 / 2, 0, 1 / 2, -1 / 2, 2 / 3]
    mean = sum(steps) / 6
    std = math.sqrt(sum((step - mean) ** 2 for step in steps) / 5)
    z = [(step - mean) / std for step in steps]
    found = rectify(torch.zeros(2, 4), answers, mask, one_group(2), weight=1.0, stability=1.0)
    expected = [[0, sum(z[:3]), z[1] + z[2], z[2]], [0, sum(z[3:]), z[4] + z[5], z[5]]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_rectify_rewards_progress():
    # between rows of two steps, the one that makes the answer likelier gains on its last step
    answers = torch.tensor([[-2, -1.5, -0.1], [-2, -1.5, -3]])
    mask = torch.tensor([[0, 1, 1]] * 2, dtype=torch.bool)
    found = rectify(torch.zeros(2, 3), answers, mask, one_group(2))
    assert found[0, 2] > 0 > found[1, 2]
    assert found[0, 1] > found[1, 1]


def test_rectify_without_a_baseline_or_segments():
    # no baseline (nan, and a response that starts the row), no segment: nothing is added, nobody's mean changes
    answers = torch.tensor([[-2, -1, -0.5], [NAN, -1, -0.5], [-2, -1, -3], [-2, NAN, NAN], [-2, -1, -0.1]])
    mask = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 1, 1], [0, 1, 1], [0, 0, 0]], dtype=torch.bool)
    found = rectify(torch.ones(5, 3), answers, mask, one_group(5))
    assert torch.equal(found[1:], mask[1:].float())
    alone = rectify(torch.ones(1, 3), answers[:1], mask[:1], one_group(1))
    torch.testing.assert_close(found[:1], alone)
    nothing = rectify(torch.ones(5, 3), torch.full((5, 3), NAN), mask, one_group(5))
    assert torch.equal(nothing, mask.float())


def naive_rectify(data, weight, stability):
    mask, answers, ids = data["mask"], data["answers"], data["ids"].tolist()
    steps: dict[tuple[int, int], float] = {}
    for i in range(len(mask)):
        positions = mask[i].nonzero()[:, 0].tolist()
        if not positions or positions[0] == 0 or answers[i, positions[0] - 1].isnan():
            continue
        baseline, seen, before = answers[i, positions[0] - 1].item(), [], 0.0
        for t in positions:
            if answers[i, t].isnan():
                continue
            seen.append(answers[i, t].item())
            n = len(seen)
            signs = [(y > x) - (y < x) for k, y in enumerate(seen) for x in seen[:k]]
            tau = sum(signs) / (n * (n - 1) / 2) if n > 1 else 0.0
            score = (1 - stability) * (1 - math.tanh(seen[-1] / baseline)) + stability * (tau + 1) / 2
            steps[i, t], before = score - before, score
    expected = torch.where(mask, data["advantages"], 0.0)
    for group in set(ids):
        values = {key: step for key, step in steps.items() if ids[key[0]] == group}
        mean = sum(values.values()) / max(len(values), 1)
        std = math.sqrt(sum((step - mean) ** 2 for step in values.values()) / max(len(values) - 1, 1))
        for (i, end), step in values.items():
            expected[i, : end + 1] += weight * (step - mean) / (std + 1e-6) * mask[i, : end + 1]
    return expected


def shaped_data(rows):
    answers = -rows.noise().abs() - 0.1
    evaluated = torch.rand(answers.shape, generator=rows.generator) < 0.7
    return {
        "mask": rows.mask,
        "ids": rows.group_ids,
        "advantages": rows.noise(),
        "logprobs": rows.logprobs(),
        "answers": torch.where(evaluated, answers, NAN),
        "correct": torch.tensor([0.0, 1, NAN])[torch.randint(0, 3, (len(rows.mask),), generator=rows.generator)],
        "std": rows.noise().abs(),
        "progress": torch.tensor(0.3),
    }


def test_rectify_naive_loop(ragged):
    for seed in range(8):
        data = shaped_data(ragged(seed))
        found = rectify(data["advantages"], data["answers"], data["mask"], data["ids"], weight=0.4, stability=0.3)
        torch.testing.assert_close(found, naive_rectify(data, 0.4, 0.3), atol=1e-5, rtol=1e-5)


def test_outcome_pieces_naive_loop(ragged):
    for seed in range(8):
        data = shaped_data(ragged(seed))
        mask, ids, advantages, correct = (data[name] for name in ("mask", "ids", "advantages", "correct"))
        lengths = mask.sum(1).tolist()
        present = [i for i, length in enumerate(lengths) if length]
        likelihood = [sum(data["logprobs"][i].tolist()) / max(length, 1) for i, length in enumerate(lengths)]
        novel = novelty(advantages, data["logprobs"], correct, mask, ids)
        short = length_control(advantages, correct, mask, ids, base=1.1)
        for i in present:
            members = [j for j in present if ids[j] == ids[i]]
            eta = math.exp(likelihood[i] - sum(likelihood[j] for j in members) / len(members))
            right = [lengths[j] for j in members if correct[j] == 1]
            for t in mask[i].nonzero()[:, 0].tolist():
                value = advantages[i, t].item()
                bonus = min(max(2.5 * (1 - eta), 0), 0.5 * value) if correct[i] == 1 and value > 0 else 0.0
                assert novel[i, t].item() == pytest.approx(value + bonus, abs=1e-5)
                excess = max(lengths[i] - sum(right) / len(right), 0) if right and value < 0 else 0.0
                assert short[i, t].item() == pytest.approx(value * (2 - 1.1**-excess), abs=1e-5)


PIECES = {
    "novelty": (novelty, ("advantages", "logprobs", "correct", "mask", "ids")),
    "length_control": (length_control, ("advantages", "correct", "mask", "ids")),
    "rectify": (rectify, ("advantages", "answers", "mask", "ids")),
    "value_spread": (value_spread, ("advantages", "std", "progress", "mask")),
    "whiten": (whiten, ("advantages", "mask")),
}


@pytest.mark.parametrize("name", PIECES)
@given(seed=st.integers(0, 10_000), draw=st.data())
def test_order_padding_and_what_lies_off_the_mask_change_nothing(ragged, name, seed, draw):
    piece, fields = PIECES[name]
    data = shaped_data(ragged(seed))
    mask = data["mask"]
    plain = piece(*(data[field] for field in fields))
    assert plain.dtype == torch.float32
    assert not plain[~mask].any()
    order = torch.tensor(draw.draw(st.permutations(range(len(mask)))))
    left, right = draw.draw(st.integers(0, 3)), draw.draw(st.integers(0, 3))
    other = {field: torch.where(mask, data[field], NAN) for field in ("advantages", "logprobs", "std")}
    other |= {"mask": mask, "answers": data["answers"]}  # the baseline of answers lies off the mask
    other = {field: torch.nn.functional.pad(value[order], (left, right)) for field, value in other.items()}
    other |= {"ids": 1000 - data["ids"][order], "correct": data["correct"][order], "progress": data["progress"]}
    found = piece(*(other[field] for field in fields))[:, left : left + mask.shape[1]]
    torch.testing.assert_close(found, plain[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("novelty", {"weight": -1.0}, r"weight: -1\.0"),
        ("novelty", {"cap": -1.0}, r"cap: -1\.0"),
        ("rectify", {"weight": -1.0}, r"weight: -1\.0"),
        ("rectify", {"stability": 1.5}, r"stability: 1\.5"),
        ("value_spread", {"kappa": 0.0}, r"kappa: 0\.0"),
        ("value_spread", {"stairs": 0}, "stairs: 0"),
        ("value_spread", {"alpha": -1.0}, r"alpha: -1\.0"),
    ],
)
def test_bad_settings(ragged, name, settings, message):
    piece, fields = PIECES[name]
    data = shaped_data(ragged(0))
    with pytest.raises(ValueError, match=message):
        piece(*(data[field] for field in fields), **settings)

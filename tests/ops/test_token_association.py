from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrl.ops.advantage_shaping.token_association import key_tokens

NAN = math.nan
FILL = 99  # in every response of the golden group


def golden_group():
    """4 correct and 4 wrong responses of two tokens; token 7 leads 3 of the correct and 1 of the wrong ones."""
    first = torch.tensor([7, 7, 7, 1, 7, 2, 3, 4])
    token_ids = torch.stack([first, torch.full((8,), FILL)], dim=1)
    correct = torch.tensor([1.0] * 4 + [0.0] * 4)
    return token_ids, torch.ones(8, 2, dtype=torch.bool), correct, torch.full((8,), 3)


def test_golden_without_term_frequency():
    # p = (16 + 16 + 1 + 1) / 70 = .485714: tables with 3, 1, 4 and 0 of the 4 holders among the correct
    # F = exp(-2 p) = .378542; I = 1 - H(3/4) = .188722; asin sqrt(3/4) - asin sqrt(1/4) = pi / 6 = .523599
    # (F + I) / 2 * pi / 6 = .148509; 2 sigmoid - 1 = .074118
    found = key_tokens(torch.zeros(8, 2), *golden_group(), frequency=False)
    assert found[0, 0].item() == pytest.approx(0.074118, abs=1e-6)
    # token 99 is in all of them: p = 1 so F = 0, I = 0
    assert not found[:, 1].any()
    # token 1, in one correct of 4: p = 1 (both tables of margin 1 are as likely), I = 1 - 7/8 H(3/7)
    entropy = -(3 / 7 * math.log2(3 / 7) + 4 / 7 * math.log2(4 / 7))
    alone = (1 - 7 / 8 * entropy) * math.asin(math.sqrt(1 / 4)) / 2
    assert found[3, 0].item() == pytest.approx(math.tanh(alone / 2), abs=1e-6)
    assert found[5, 0].item() == pytest.approx(-math.tanh(alone / 2), abs=1e-6)


def test_each_test_alone():
    # F pi / 6 = .198204, tanh of half .098778; I pi / 6 = .098814, tanh of half .049367
    group = golden_group()
    fisher = key_tokens(torch.zeros(8, 2), *group, frequency=False, information=0.0)
    information = key_tokens(torch.zeros(8, 2), *group, frequency=False, fisher=0.0)
    assert fisher[0, 0].item() == pytest.approx(math.tanh(0.378542 * math.pi / 12), abs=1e-6)
    assert information[0, 0].item() == pytest.approx(math.tanh(0.188722 * math.pi / 12), abs=1e-6)


def test_term_frequency_by_hand():
    # token 7 is 3 of the 8 correct tokens and 1 of the 8 wrong ones; equal lengths, so T = 3 f / (f + 2):
    # T_right = 9/8 / (19/8) = 9/19, T_wrong = 3/8 / (17/8) = 3/17, each ratio over T + 1e-5
    right, wrong = 9 / 19, 3 / 17
    contrast = right / (wrong + 1e-5) - wrong / (right + 1e-5)
    score = (0.378542 + 0.188722) / 2 * (math.pi / 6 + contrast)
    found = key_tokens(torch.zeros(8, 2), *golden_group())
    assert found[0, 0].item() == pytest.approx(math.tanh(score / 2), abs=1e-6)
    # ids of one side only: the contrast is of the order 1e5 and the weight saturates
    assert found[3, 0].item() == pytest.approx(1, abs=1e-6)
    assert found[5, 0].item() == pytest.approx(-1, abs=1e-6)


def test_the_same_weight_for_correct_and_wrong_on_top_of_the_advantage():
    advantages = torch.tensor([[0.5, 0.5]] * 4 + [[-0.5, -0.5]] * 4)
    found = key_tokens(advantages, *golden_group(), scale=2.0) - advantages
    assert found[0, 0].item() == pytest.approx(found[4, 0].item())
    once = key_tokens(advantages, *golden_group()) - advantages
    torch.testing.assert_close(found, 2 * once)


def test_ignored_ids_keep_their_advantage():
    group = golden_group()
    found, plain = (key_tokens(torch.ones(8, 2), *group, ignore_ids=ids) for ids in ((7, 12), ()))
    assert torch.equal(found[:3, 0], torch.ones(3))
    assert torch.equal(found[5:], plain[5:])


@pytest.mark.parametrize("verdicts", [[1, 1, 1], [0, 0, 0], [1, 1, NAN], [NAN, 0, 0], [NAN, NAN, NAN]])
def test_groups_of_one_kind_are_unchanged(verdicts):
    token_ids = torch.tensor([[1, 2], [1, 3], [4, 4]])
    advantages = torch.tensor([[1.0, 2], [3, 4], [5, 6]])
    found = key_tokens(advantages, token_ids, torch.ones(3, 2).bool(), torch.tensor(verdicts), torch.tensor([0, 0, 0]))
    assert torch.equal(found, advantages)


def fisher_p(a: int, b: int, right: int, wrong: int) -> float:
    holders = a + b
    chances = {
        k: math.comb(right, k) * math.comb(wrong, holders - k) / math.comb(right + wrong, holders)
        for k in range(max(0, holders - wrong), min(right, holders) + 1)
    }
    return sum(chance for chance in chances.values() if chance <= chances[a] * (1 + 1e-9))


def entropy(*counts: int) -> float:
    return -sum(n / sum(counts) * math.log2(n / sum(counts)) for n in counts if n)


def naive_weight(v: int, right: list[list[int]], wrong: list[list[int]], *, frequency: bool) -> float:
    """right, wrong: the token ids of each response; with fisher 1 and information 2."""
    a, b = (sum(v in response for response in side) for side in (right, wrong))
    n, m = len(right), len(wrong)
    p = fisher_p(a, b, n, m)
    significance = 0.0 if p > 1 - 1e-9 else math.exp(-2 * p)
    known = (a + b) * entropy(a, b) + (n - a + m - b) * entropy(n - a, m - b)
    information = entropy(n, m) - known / (n + m)
    direction = math.asin(math.sqrt(a / n)) - math.asin(math.sqrt(b / m))
    if frequency:
        lengths = [sum(len(response) for response in side) for side in (right, wrong)]
        terms = []
        for side, length in zip((right, wrong), lengths, strict=True):
            f = sum(response.count(v) for response in side) / length
            terms.append(3 * f / (f + 2 * (0.5 + 0.5 * length / (sum(lengths) / 2))))
        direction += terms[0] / (terms[1] + 1e-5) - terms[1] / (terms[0] + 1e-5)
    score = (significance + 2 * information) * direction / 3
    return 2 * (1 / (1 + math.exp(-max(min(score, 700), -700))) - 0.5)


def random_group(rows):
    token_ids = torch.randint(100, 108, rows.mask.shape, generator=rows.generator)
    correct = torch.tensor([0.0, 1, 1, 0, NAN])[torch.randint(0, 5, (len(rows.mask),), generator=rows.generator)]
    return rows.noise(), token_ids, rows.mask, correct, rows.group_ids


@pytest.mark.parametrize("frequency", [True, False])
def test_naive_loop(ragged, frequency):
    changed = 0
    for seed in range(6):
        advantages, token_ids, mask, correct, ids = random_group(ragged(seed, rows=24, width=9))
        found = key_tokens(advantages, token_ids, mask, correct, ids, information=2.0, frequency=frequency)
        expected = torch.where(mask, advantages, 0.0)
        for group in set(ids.tolist()):
            members = [i for i in range(len(ids)) if ids[i] == group and mask[i].any() and not correct[i].isnan()]
            right = [token_ids[i][mask[i]].tolist() for i in members if correct[i] == 1]
            wrong = [token_ids[i][mask[i]].tolist() for i in members if correct[i] == 0]
            if not right or not wrong:
                continue
            for i in members:
                for t in mask[i].nonzero()[:, 0].tolist():
                    expected[i, t] += naive_weight(int(token_ids[i, t]), right, wrong, frequency=frequency)
                    changed += 1
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert changed > 200


@given(seed=st.integers(0, 10_000), draw=st.data())
def test_order_padding_and_what_lies_off_the_mask_change_nothing(ragged, seed, draw):
    advantages, token_ids, mask, correct, ids = random_group(ragged(seed))
    plain = key_tokens(advantages, token_ids, mask, correct, ids)
    assert plain.dtype == torch.float32
    assert not plain[~mask].any()
    order = torch.tensor(draw.draw(st.permutations(range(len(ids)))))
    left, right = draw.draw(st.integers(0, 3)), draw.draw(st.integers(0, 3))
    junk = (torch.where(mask, advantages, NAN), torch.where(mask, token_ids, 100), mask)
    padded = (torch.nn.functional.pad(x[order], (left, right)) for x in junk)
    found = key_tokens(*padded, correct[order], 1000 - ids[order])[:, left : left + mask.shape[1]]
    torch.testing.assert_close(found, plain[order], atol=1e-5, rtol=1e-5)


def test_bad_settings():
    group = golden_group()
    for setting in ("fisher", "information", "scale"):
        with pytest.raises(ValueError, match=rf"{setting}: -1\.0"):
            key_tokens(torch.zeros(8, 2), *group, **{setting: -1.0})
    with pytest.raises(ValueError, match="both 0"):
        key_tokens(torch.zeros(8, 2), *group, fisher=0.0, information=0.0)

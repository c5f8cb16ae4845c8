from __future__ import annotations

import inspect
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmrl.ops import token_weights
from llmrl.ops.advantages.returns import reinforce
from llmrl.ops.log_ratios import sequence
from llmrl.ops.policy_losses.clipped import ppo_clip
from llmrl.ops.reductions import fixed_length, sequence_mean, token_mean
from llmrl.ops.token_weights.mismatch import drop_stale_negatives, icepop, masked_is, sequence_is, truncated_is
from llmrl.ops.token_weights.selection import (
    drop_covariant,
    entropy_ratio,
    low_entropy,
    most_varied,
    surrogate_dropout,
    top_covariant,
    top_entropy,
)
from llmrl.ops.token_weights.verdicts import (
    best_of_group,
    chosen_completions,
    chosen_tokens,
    correct_tokens,
    difficulty,
    positive_advantage,
)
from llmrl.ops.token_weights.writers import other_completions, policy_completions
from llmrl.pieces import catalogue

PIECES = catalogue(token_weights)
MISMATCH = (truncated_is, sequence_is, masked_is, icepop)
SETTINGS = {  # large enough shares that something happens on a small batch
    "drop_covariant": {"fraction": 0.2, "low": -0.5, "high": 2.0},
    "top_covariant": {"fraction": 0.2},
    "drop_stale_negatives": {"limit": 0.1},
    "entropy_ratio": {"low": 0.5, "high": 2.0},
}


def logs(*ratios):
    return torch.tensor([ratios]).log()


def ones(*shape):
    return torch.ones(shape, dtype=torch.bool)


def random_data(rows):
    n = len(rows.group_ids)
    correct = torch.randint(0, 3, (n,), generator=rows.generator).float()
    return {
        "response_mask": rows.mask,
        "group_ids": rows.group_ids,
        "correct": torch.where(correct == 2, math.nan, correct),
        "advantages": rows.noise(),
        "logprobs": rows.logprobs(),
        "old_logprobs": rows.logprobs(),
        "rollout_logprobs": rows.logprobs(),
        "entropy": rows.noise().abs(),
        "old_entropy": rows.noise().abs(),
        "log_ratio": 0.3 * rows.noise(),
        "uniform_noise": torch.rand(rows.mask.shape, generator=rows.generator),
        "progress": torch.tensor(0.3),
        "rewards": rows.noise(),
        "from_policy": torch.rand(n, generator=rows.generator) < 0.7,
        "row_weights": torch.rand(n, generator=rows.generator),
        "turn_ids": torch.where(rows.mask, begins(rows.mask).cumsum(dim=1) - 1, -1),
        "turn_seconds": rows.noise().abs(),
    }


def begins(mask):
    """Where a run of tokens of the mask begins."""
    return mask & ~torch.nn.functional.pad(mask, (1, 0))[:, :-1]


def weigh(name, data):
    return PIECES[name](*(data[p] for p in positional(name)), **SETTINGS.get(name, {}))


def positional(name):
    return [p.name for p in inspect.signature(PIECES[name]).parameters.values() if p.kind is not p.KEYWORD_ONLY]


def per_token(data):
    return {key: value for key, value in data.items() if value.dim() == 2 and value.is_floating_point()}


def test_what_the_catalogue_holds():
    assert set(PIECES) == {
        *("truncated_is", "sequence_is", "masked_is", "icepop", "drop_stale_negatives", "difficulty"),
        *("correct_tokens", "top_entropy", "low_entropy", "entropy_ratio", "drop_covariant", "top_covariant"),
        *("surrogate_dropout", "most_varied", "positive_advantage", "chosen_tokens", "chosen_completions"),
        *("policy_completions", "other_completions", "weighted_rows", "turn_duration", "best_of_group"),
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", PIECES)
def test_never_negative_detached_and_blind_to_what_lies_off_the_mask(ragged, name, seed):
    data = random_data(ragged(seed))
    mask = data["response_mask"]
    plain = weigh(
        name, data | {key: data[key].clone().requires_grad_() for key in ("logprobs", "entropy", "log_ratio")}
    )
    assert plain.dtype == torch.float32
    assert not plain.requires_grad
    assert not plain[~mask].any()
    assert (plain >= 0).all()
    assert plain.isfinite().all()
    for junk in (math.nan, math.inf, -math.inf):
        spoilt = {key: torch.where(mask, value, junk) for key, value in per_token(data).items()}
        assert torch.equal(weigh(name, data | spoilt), plain)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", PIECES)
def test_rows_permuted_groups_renamed_columns_padded(ragged, name, seed):
    rows = ragged(seed)
    data = random_data(rows)
    plain = weigh(name, data)
    order = torch.randperm(len(plain), generator=rows.generator)
    permuted = {key: value[order] if value.dim() else value for key, value in data.items()}
    permuted["group_ids"] = 1000 - permuted["group_ids"]
    torch.testing.assert_close(weigh(name, permuted), plain[order])
    wide = {key: torch.nn.functional.pad(v, (2, 3)) if v.dim() == 2 else v for key, v in data.items()}
    torch.testing.assert_close(weigh(name, wide)[:, 2:-3], plain)


@pytest.mark.parametrize("name", PIECES)
def test_a_batch_without_response_tokens(ragged, name):
    data = random_data(ragged(0))
    assert not weigh(name, data | {"response_mask": torch.zeros_like(data["response_mask"])}).any()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["entropy_ratio", "surrogate_dropout"])
def test_what_reads_the_current_policy_takes_every_trajectory_for_itself(ragged, name, seed):
    data = random_data(ragged(seed))
    whole = weigh(name, data)
    for i in range(len(whole)):
        alone = {key: value[i : i + 1] if value.dim() else value for key, value in data.items()}
        assert torch.equal(weigh(name, alone)[0], whole[i])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("piece", MISMATCH)
def test_no_mismatch_no_change(ragged, piece, seed):
    rows = ragged(seed)
    logprobs = rows.logprobs()
    assert torch.equal(piece(logprobs, logprobs, rows.mask), rows.mask.float())


def test_mismatch_by_hand():
    # token ratios .25, 1, 4, 8: their product is 8
    old, rollout = logs(0.25, 1.0, 4.0, 8.0), torch.zeros(1, 4)
    assert truncated_is(old, rollout, ones(1, 4))[0].tolist() == pytest.approx([0.25, 1, 2, 2])
    assert truncated_is(old, rollout, ones(1, 4), cap=5.0)[0].tolist() == pytest.approx([0.25, 1, 4, 5])
    assert sequence_is(old, rollout, ones(1, 4))[0].tolist() == pytest.approx([3] * 4)
    assert sequence_is(old, rollout, ones(1, 4), cap=20.0)[0].tolist() == pytest.approx([8] * 4)
    assert masked_is(old, rollout, ones(1, 4))[0].tolist() == [0] * 4
    assert masked_is(old, rollout, ones(1, 4), high=9.0)[0].tolist() == [1] * 4
    assert icepop(old, rollout, ones(1, 4))[0].tolist() == pytest.approx([0, 1, 4, 0])
    assert icepop(old, rollout, ones(1, 4), low=0.0)[0].tolist() == pytest.approx([0.25, 1, 4, 0])
    # without the last token the product is 1: a whole trajectory hangs on one token
    three = torch.tensor([[True, True, True, False]])
    assert masked_is(old, rollout, three)[0].tolist() == [1, 1, 1, 0]
    assert sequence_is(old, rollout, three)[0].tolist() == pytest.approx([1, 1, 1, 0])


def test_mismatch_naive_loop(ragged):
    for seed in range(5):
        rows = ragged(seed)
        old, rollout = rows.logprobs(), rows.logprobs()
        found = {piece: piece(old, rollout, rows.mask) for piece in MISMATCH}
        for i, mask in enumerate(rows.mask):
            w = {t: math.exp(old[i, t].item() - rollout[i, t].item()) for t in range(len(mask)) if mask[t]}
            product = math.prod(w.values())
            for t, ratio in w.items():
                assert found[truncated_is][i, t].item() == pytest.approx(min(ratio, 2), abs=1e-5)
                assert found[icepop][i, t].item() == pytest.approx(ratio if 0.5 <= ratio <= 5 else 0, abs=1e-5)
                assert found[sequence_is][i, t].item() == pytest.approx(min(product, 3), abs=1e-5)
                assert found[masked_is][i, t].item() == (0.5 <= product <= 2)


def test_stale_negatives_by_hand():
    # rollout - old per token: row 0 mean .75 over two tokens, row 1 mean .25
    rollout = torch.tensor([[0.0, 0.0, 9.0], [0.0, 0.0, 0.0]])
    old = torch.tensor([[-1.0, -0.5, 0.0], [-0.5, 0.0, -0.25]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    advantages = torch.tensor([[-1.0, 2.0, 0.0], [-1.0, -1.0, -1.0]])
    assert drop_stale_negatives(advantages, old, rollout, mask).tolist() == [[0, 1, 0], [1, 1, 1]]
    assert drop_stale_negatives(advantages, old, rollout, mask, limit=0.2).tolist() == [[0, 1, 0], [0, 0, 0]]
    # the other direction is no staleness: the policy has come to like these tokens
    assert drop_stale_negatives(-advantages.abs(), rollout, old, mask).tolist() == mask.float().tolist()


@pytest.mark.parametrize(("wrong", "weight"), [(1, 0.913400), (5, 0.743119), (9, 0.238015), (0, 1.0), (10, 1.0)])
def test_difficulty_by_hand(wrong, weight):
    # ten trajectories; 1 - exp(-e p) for p = .9, .5, .1; solved by all or none: 1
    correct = torch.tensor([0.0] * wrong + [1.0] * (10 - wrong))
    advantages = torch.tensor([[1.0, -1.0, 0.0]]).expand(10, 3)
    found = difficulty(advantages, correct, torch.full((10,), 4), ones(10, 3))
    assert found[0].tolist() == pytest.approx([weight, 1.0, 1.0], abs=1e-6)


def test_difficulty_counts_known_verdicts_of_the_own_group():
    # group 8: 1, 0, unknown, and a correct one without response tokens: p = 1/2; group 3: 1 of 1
    correct = torch.tensor([1.0, 1.0, 0.0, math.nan, 1.0])
    group_ids = torch.tensor([8, 3, 8, 8, 8])
    mask = torch.tensor([[True]] * 4 + [[False]])
    found = difficulty(torch.ones(5, 1), correct, group_ids, mask, sharpness=2.0)
    half = 1 - math.exp(-1)
    assert found[:, 0].tolist() == pytest.approx([half, 1.0, half, half, 0.0])
    unknown = difficulty(torch.ones(2, 1), torch.full((2,), math.nan), torch.tensor([0, 0]), ones(2, 1))
    assert unknown.tolist() == [[1.0], [1.0]]


def test_correct_tokens_turn_a_mean_over_all_into_one_over_the_correct():
    # 6 response tokens, 2 of them correct: weight 3
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    correct = torch.tensor([1.0, 0.0, math.nan])
    weights = correct_tokens(correct, mask)
    assert weights.tolist() == [[3, 3, 0], [0, 0, 0], [0, 0, 0]]
    penalty = torch.tensor([[2.0, 4.0, 9.0], [7.0, 7.0, 7.0], [7.0, 7.0, 7.0]])
    assert (penalty * weights * mask / mask.sum()).sum().item() == pytest.approx(3.0)  # (2 + 4) / 2
    assert not correct_tokens(torch.zeros(3), mask).any()


def test_played_and_replayed_completions_have_means_of_their_own():
    # SPC: two answers of the policy with rewards 1 and -1, and a demonstration, which is only imitated
    mask = torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()
    from_policy = torch.tensor([True, True, False])
    old = torch.tensor([[-1.0, -1.0], [-1.0, 0.0], [-2.0, -4.0]])
    new = torch.tensor([[-0.5, -1.1], [-1.3, 0.0], [-2.0, -4.0]])
    rewards = torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.0, 5.0]])
    credit = reinforce(rewards, mask, baseline="none").advantages
    played = ppo_clip(sequence(new, old, mask), credit).loss * policy_completions(from_policy, mask)
    replayed = -new * other_completions(from_policy, mask)
    shares = sequence_mean(mask)
    # ratios exp(.2), held at 1.2, and exp(-.3), held at .8
    expected = -(1.2 * 1 + 0.8 * -1) / 2
    assert float((played * shares).sum()) == pytest.approx(expected)
    assert float((replayed * shares).sum()) == pytest.approx((2 + 4) / 2)
    assert not other_completions(torch.ones(3).bool(), mask).any()


def test_imitating_chosen_completions_under_each_reduction():
    # groups {1, 0, no token}, {2, 3, 5} and {4}: rows 0, 4 and 5 are better than another one of their group
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1]]).bool()
    rewards = torch.tensor([1.0, 0.0, 9.0, 2.0, 3.0, 5.0, 4.0])[:, None] * mask.cumsum(1).eq(1)
    group_ids = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    penalty = torch.tensor([[1.0, 2.0, 6.0], *[[7.0] * 3] * 3, [4.0, 2.0, 9.0], [5.0, 9.0, 9.0], [7.0] * 3])
    by_token, by_completion = (
        weigh(rewards, group_ids, mask) * penalty for weigh in (chosen_tokens, chosen_completions)
    )
    assert (by_token * token_mean(mask)).sum().item() == pytest.approx((9 + 6 + 5) / 6)
    assert (by_completion * sequence_mean(mask)).sum().item() == pytest.approx((3 + 3 + 5) / 3)
    assert (by_completion * fixed_length(mask, length=1)).sum().item() == pytest.approx((9 + 6 + 5) / 3)
    for weigh in (chosen_tokens, chosen_completions):
        assert not weigh(rewards * 0, group_ids, mask).any()


def test_positive_advantage_turns_a_mean_over_all_into_one_over_what_did_well():
    # 6 response tokens, of which 4 have credit: weight 1.5; the parts of a trajectory are judged for themselves
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)
    advantages = torch.tensor([[0.5, -2.0, 1e-6], [3.0, 0.1, 7.0], [0.0, 7.0, 7.0]])
    weights = positive_advantage(advantages, mask)
    assert weights.tolist() == [[1.5, 0, 1.5], [1.5, 1.5, 0], [0, 0, 0]]
    penalty = torch.tensor([[1.0, 50.0, 3.0], [5.0, 7.0, 50.0], [50.0, 50.0, 50.0]])
    assert (penalty * weights * mask / mask.sum()).sum().item() == pytest.approx(4.0)  # (1 + 3 + 5 + 7) / 4
    assert not positive_advantage(-advantages.abs(), mask).any()


def test_the_best_of_each_group_is_imitated_if_it_is_good_enough():
    """Groups 3: (2, 0.5), 5: (0.25, 0.5, no tokens), 7: (-1): of three groups the first and the second have a good one.

    So 5 completions / 3 groups is the weight, and the mean over completions becomes (4 + 6) / 3.
    """
    mask = torch.tensor([[1, 1], [1, 0], [1, 1], [1, 0], [0, 0], [1, 1]], dtype=torch.bool)
    credit = [[2, 2], [0.5, 9], [0.25, 0.25], [0.5, 9], [9, 9], [-1, -1]]
    given = torch.tensor(credit), torch.tensor([3, 3, 5, 5, 5, 7]), mask
    weights = best_of_group(*given, threshold=0.3)
    assert weights[[0, 3]].tolist() == [[pytest.approx(5 / 3)] * 2, [pytest.approx(5 / 3), 0]]
    assert not weights[[1, 2, 4, 5]].any()
    penalty = torch.tensor([[1.0, 3.0], [50, 50], [50, 50], [6, 50], [50, 50], [50, 50]])
    assert (penalty * weights * fixed_length(mask, length=1)).sum().item() == pytest.approx(10 / 3)
    assert best_of_group(*given, threshold=0.5).any(dim=1).tolist() == [True] + [False] * 5  # 0.5 is not above 0.5
    assert best_of_group(torch.ones(2, 2), torch.tensor([1, 1]), mask[[0, 2]])[1].tolist() == [
        0,
        0,
    ]  # the first of equals


def test_entropy_selections_by_hand():
    entropy = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5], [2.0, 1.0, 0.0, 3.0, 9.0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]], dtype=torch.bool)
    # a third of 9 tokens
    assert top_entropy(entropy, mask, fraction=1 / 3).tolist() == [[0, 0, 0, 0, 0], [1, 1, 0, 1, 0]]
    assert top_entropy(entropy, mask, fraction=0.01).sum() == 1
    assert torch.equal(top_entropy(entropy, mask, fraction=1.0), mask.float())
    # quantile .8: at rank .8 * 4 = 3.2 of row 0 it is .42; at .8 * 3 = 2.4 of 0, 1, 2, 3 in row 1 it is 2.4
    assert low_entropy(entropy, mask).tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]
    assert low_entropy(torch.full((1, 4), 0.7), ones(1, 4)).tolist() == [[1, 1, 1, 1]]


def test_entropy_ratio_by_hand():
    # ratios .94, .96, 1, 1.04, 1.06
    entropy = torch.tensor([[0.94, 0.96, 1.0, 1.04, 1.06]])
    assert entropy_ratio(entropy, torch.ones(1, 5), ones(1, 5)).tolist() == [[0, 1, 1, 1, 0]]
    # 1e-6 over 2e-6 is noise, or a halving; 0 over 0 is no change
    tiny, old = torch.tensor([[1e-6, 0.0]]), torch.tensor([[2e-6, 0.0]])
    assert entropy_ratio(tiny, old, ones(1, 2)).tolist() == [[0, 1]]
    assert entropy_ratio(tiny, old, ones(1, 2), floor=1e-3).tolist() == [[1, 1]]


# A = 1, 1, -1, -1 and logprobs -.5, -3.5, -3.5, -.5: means 0 and -2, deviations 1.5, -1.5, -1.5, 1.5
SQUARE = torch.tensor([[1.0, 1.0, -1.0, -1.0]]), torch.tensor([[-0.5, -3.5, -3.5, -0.5]]), ones(1, 4)


def test_covariance_by_hand():
    # c = 1.5, -1.5, 1.5, -1.5
    uniform_noise = torch.tensor([[0.1, 0.9, 0.3, 0.8]])
    assert drop_covariant(*SQUARE, uniform_noise).tolist() == [[1, 1, 0, 1]], "at least one, by the uniform_noise"
    assert drop_covariant(*SQUARE, 1 - uniform_noise).tolist() == [[0, 1, 1, 1]]
    assert drop_covariant(*SQUARE, uniform_noise, fraction=1.0).tolist() == [[0, 1, 0, 1]]
    assert drop_covariant(*SQUARE, uniform_noise, fraction=1.0, low=2.0).tolist() == [[1, 1, 1, 1]], "no candidate"
    assert drop_covariant(*SQUARE, uniform_noise, fraction=1.0, low=-9.0).tolist() == [[0, 0, 0, 0]]
    assert top_covariant(*SQUARE, fraction=0.5).tolist() == [[1, 0, 1, 0]]
    assert top_covariant(*SQUARE).tolist() == [[1, 0, 0, 0]], "at least one, the earlier of two"


def test_covariance_is_over_the_tokens_of_the_batch(ragged):
    for seed in range(5):
        data = random_data(ragged(seed))
        tokens = data["response_mask"].nonzero().tolist()
        mean_a = sum(data["advantages"][i, t].item() for i, t in tokens) / len(tokens)
        mean_p = sum(data["logprobs"][i, t].item() for i, t in tokens) / len(tokens)
        c = {
            (i, t): (data["advantages"][i, t].item() - mean_a) * (data["logprobs"][i, t].item() - mean_p)
            for i, t in tokens
        }
        count = round(0.2 * len(tokens))
        best = sorted(c, key=lambda at: -c[at])[:count]
        assert sorted(map(tuple, weigh("top_covariant", data).nonzero().tolist())) == sorted(best)
        candidates = sorted((at for at in c if -0.5 < c[at] < 2.0), key=lambda at: -data["uniform_noise"][at].item())
        kept = sorted(set(c) - set(candidates[:count]))
        assert sorted(map(tuple, weigh("drop_covariant", data).nonzero().tolist())) == kept


def test_surrogate_dropout_by_hand():
    # ratios 1, 1, 1, 1, 5 and A = 1: s mean 9/5; v = .64 four times, 10.24: a fifth of five is the last
    log_ratio = logs(1.0, 1.0, 1.0, 1.0, 5.0)
    assert surrogate_dropout(torch.ones(1, 5), log_ratio, ones(1, 5)).tolist() == [[1, 1, 1, 1, 0]]
    assert surrogate_dropout(torch.ones(1, 5), log_ratio, ones(1, 5), fraction=0.19).tolist() == [[1] * 5]
    # two fifths would take one of four equal ones too: they stay together
    assert surrogate_dropout(torch.ones(1, 5), log_ratio, ones(1, 5), fraction=0.4).tolist() == [[1, 1, 1, 1, 0]]
    # s = 1, 2, -1, -4, 0: mean -.4, v = 1.96, 5.76, .36, 12.96; half of each side: the 2 and the -4
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0, 0.0]])
    found = surrogate_dropout(advantages, logs(1.0, 2.0, 1.0, 4.0, 9.0), ones(1, 5), fraction=0.5)
    assert found.tolist() == [[1, 0, 1, 0, 1]]
    assert surrogate_dropout(0.3 * torch.ones(1, 7), torch.zeros(1, 7), ones(1, 7), fraction=0.9).all()


def test_surrogate_dropout_lowers_the_variance(ragged):
    for seed in range(5):
        data = random_data(ragged(seed, width=80))
        kept = surrogate_dropout(data["advantages"], data["log_ratio"], data["response_mask"]).bool()
        surrogate = data["log_ratio"].exp() * data["advantages"]
        for i, mask in enumerate(data["response_mask"]):
            for side in (data["advantages"][i] > 0, data["advantages"][i] < 0):
                assert int((mask & side & ~kept[i]).sum()) == int(0.2 * int((mask & side).sum()) + 1e-9)
            if kept[i].any() and not kept[i][mask].all():
                assert surrogate[i][kept[i]].var() < surrogate[i][mask].var()


def test_most_varied_by_hand():
    # rows 0, .1, .2, 1: of two the variance is largest for 0 and 1; |A| H = 0, 0 and 3, 1: half of their 4 tokens
    advantages = torch.tensor([[0.0, 0.0], [0.1, 0.1], [0.2, 0.2], [1.0, 1.0]])
    entropy = torch.tensor([[9.0, 8.0], [9.0, 9.0], [9.0, 9.0], [3.0, 1.0]])
    start = {"samples_first": 0.5, "tokens_first": 0.5}
    found = most_varied(advantages, entropy, ones(4, 2), torch.tensor(0.0), **start)
    assert found.tolist() == [[0, 0], [0, 0], [0, 0], [4, 4]]  # 8 tokens, 2 kept
    # half way: three quarters of the rows, 0, .1 and 1 (variance .1817 + ; 0, .2, 1 has less), and of their 6 tokens
    # round(.75 * 6) = 4 (4.5 to even): .1 * 9 twice, 3, 1
    found = most_varied(advantages, entropy, ones(4, 2), torch.tensor(0.5), **start)
    assert found.tolist() == [[0, 0], [2, 2], [0, 0], [2, 2]]
    last = most_varied(advantages, entropy, ones(4, 2), torch.tensor(1.0))
    assert last.tolist() == [[1, 1]] * 4


@given(values=st.lists(st.integers(-20, 20), min_size=2, max_size=7), data=st.data())
def test_most_varied_rows_against_all_subsets(values, data):
    keep = data.draw(st.integers(2, len(values))) if len(values) > 2 else 2
    advantages, share = torch.tensor(values).float()[:, None], keep / len(values)
    entropy, everything = ones(len(values), 1).float(), {"tokens_first": 1.0}
    found = most_varied(advantages, entropy, ones(len(values), 1), torch.tensor(0.0), samples_first=share, **everything)
    kept = advantages[found > 0]
    assert len(kept) == keep
    best = max(torch.tensor(subset).float().var().item() for subset in itertools.combinations(values, keep))
    assert kept.var().item() == pytest.approx(best, abs=1e-4)
    assert found.sum().item() == pytest.approx(len(values))


def test_kept_tokens_of_most_varied_make_up_the_whole(ragged):
    for seed in range(5):
        data = random_data(ragged(seed))
        weights = weigh("most_varied", data)
        assert weights.sum().item() == pytest.approx(data["response_mask"].sum().item())
        assert 0 < (weights > 0).sum() < data["response_mask"].sum()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("truncated_is", {"cap": 0.0}),
        ("sequence_is", {"cap": -1.0}),
        ("masked_is", {"low": 3.0}),
        ("masked_is", {"low": -0.1}),
        ("icepop", {"high": 0.5}),
        ("drop_stale_negatives", {"limit": 0.0}),
        ("difficulty", {"sharpness": 0.0}),
        ("top_entropy", {"fraction": 0.0}),
        ("top_entropy", {"fraction": 1.1}),
        ("low_entropy", {"quantile": 1.1}),
        ("entropy_ratio", {"low": 1.05}),
        ("entropy_ratio", {"floor": -1.0}),
        ("drop_covariant", {"fraction": 0.0}),
        ("drop_covariant", {"low": 5.0}),
        ("top_covariant", {"fraction": 0.0}),
        ("surrogate_dropout", {"fraction": 1.0}),
        ("most_varied", {"samples_first": 0.0}),
        ("most_varied", {"tokens_last": 1.5}),
    ],
)
def test_ranges(ragged, name, settings):
    data = random_data(ragged(0))
    with pytest.raises(ValueError, match=next(iter(settings))):
        PIECES[name](*(data[p] for p in positional(name)), **settings)

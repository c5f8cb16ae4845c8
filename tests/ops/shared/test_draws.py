"""Draws follow their distribution, are decided by seed and position alone, and never hit probability 0."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llmrl.ops.shared import draws
from llmrl.ops.shared.draws import draw_tokens

COUNT = 40000


def drawn(logits: Tensor, count: int = COUNT, seed: int = 7) -> Tensor:
    """`count` draws from one row of logits, at one seed and consecutive positions."""
    rows = logits.expand(count, -1)
    return draw_tokens(rows, torch.full((count,), seed), torch.arange(count))[0]


def test_the_mixing_function_is_splitmix64s():
    """The first two outputs of SplitMix64 from the state 0, from its reference implementation."""
    states = torch.tensor([1, 2]) * draws.GOLDEN
    assert [found % 2**64 for found in draws._mixed(states).tolist()] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 25, 1001])
def test_tokens_come_from_the_distribution(vocabulary):
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 1.5 * torch.randn(1, vocabulary, generator=generator)
    logits[0, 1::5] = -torch.inf
    expected = COUNT * logits[0].double().softmax(0)
    seen = drawn(logits).bincount(minlength=vocabulary)
    assert seen[1::5].sum() == 0
    common = expected >= 5
    cells = torch.cat([(seen - expected).square()[common] / expected[common], torch.zeros(1)])
    chi_square, freedom = float(cells.sum()), int(common.sum()) - 1
    assert freedom > 500 or vocabulary < 1001
    assert chi_square <= freedom + 3.5 * math.sqrt(2 * freedom)  # its mean, and 3.5 of its standard deviations


def test_a_vocabulary_of_150_000_is_drawn_from_by_parts():
    """Each of 50 parts of 3,000 tokens, as often as its share; the one token of half the mass half the time."""
    logits = torch.randn(1, 150_000, generator=torch.Generator().manual_seed(0))
    logits[0, 77_777] = logits.logsumexp(1)
    count = 2000
    found = torch.cat([drawn(logits, 100, seed) for seed in range(count // 100)])
    assert abs(float((found == 77_777).double().mean()) - 0.5) < 3.5 * 0.5 / math.sqrt(count)
    others = found[found != 77_777] // 3000
    share = logits[0].double().softmax(0).masked_fill(torch.arange(150_000) == 77_777, 0).view(50, -1).sum(1)
    expected = len(others) * share / share.sum()
    chi_square = float(((others.bincount(minlength=50) - expected).square() / expected).sum())
    assert chi_square < 49 + 3.5 * math.sqrt(2 * 49)


def test_consecutive_draws_and_neighbouring_seeds_are_independent():
    """Pairs of draws from 4 equal tokens fill 16 cells evenly, along positions and across seeds."""
    logits = torch.zeros(1, 4)
    one, other = drawn(logits, seed=1), drawn(logits, seed=2)
    for left, right in ((one[:-1], one[1:]), (one, other)):
        expected = len(left) / 16
        cells = (4 * left + right).bincount(minlength=16)
        assert float(((cells - expected).square() / expected).sum()) < 15 + 3.5 * math.sqrt(30)


def test_only_the_last_of_many_blocks_has_a_possible_token():
    logits = torch.full((1, 1001), -torch.inf)
    logits[0, -1] = -3.0
    tokens, logprobs = draw_tokens(logits, torch.tensor([5]), torch.tensor([0]))
    assert (tokens.tolist(), logprobs.tolist()) == ([1000], [0.0])


def test_a_row_alone_is_a_row_among_others():
    generator = torch.Generator().manual_seed(0)
    logits, seeds, positions = torch.randn(50, 300, generator=generator), torch.arange(50) % 7, torch.arange(50) // 7
    tokens, logprobs = draw_tokens(logits, seeds, positions)
    for row in (0, 13, 49):
        alone, logprob = draw_tokens(logits[row : row + 1], seeds[row : row + 1], positions[row : row + 1])
        assert alone.item() == tokens[row]
        assert logprob.item() == pytest.approx(logprobs[row].item(), abs=1e-6)
    assert torch.allclose(logprobs, logits.log_softmax(1).gather(1, tokens[:, None])[:, 0], atol=1e-6)
    assert (draw_tokens(logits, seeds + 1, positions)[0] != tokens).double().mean() > 0.9
    assert (draw_tokens(logits, seeds, positions + 7)[0] != tokens).double().mean() > 0.9


def test_rounding_of_the_logits_hardly_ever_changes_a_draw():
    """By a change of 1e-4 in every logit, 1e-4 of the draws change; the boundaries of a cumulative sum would move."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 4096, generator=generator)
    moved = logits + 1e-4 * torch.randn(1, 4096, generator=generator)
    assert int((drawn(logits, 4000) != drawn(moved, 4000)).sum()) <= 4


def test_bfloat16_logits_are_drawn_from_in_fp32():
    logits = torch.randn(20, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    seeds, positions = torch.arange(20), torch.zeros(20, dtype=torch.int64)
    found, expected = draw_tokens(logits, seeds, positions), draw_tokens(logits.float(), seeds, positions)
    assert torch.equal(found[0], expected[0])
    assert found[1].dtype == torch.float32

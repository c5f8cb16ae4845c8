"""Signs of poisoned pairs, by hand and on drawn prompts."""

from __future__ import annotations

import math
import random

import pytest

from llmrl.evaluation.poisoning import audit, log_odds


def test_log_odds_by_hand():
    # 8 of 10 flagged prompts and 10 of 100 others: odds 8.5 / 2.5 and 10.5 / 90.5
    expected = math.log((8.5 / 2.5) / (10.5 / 90.5)) / math.sqrt(1 / 8.5 + 1 / 2.5 + 1 / 10.5 + 1 / 90.5)
    assert log_odds(8, 10, 10, 100) == pytest.approx(expected)
    assert log_odds(1, 2, 50, 100) == pytest.approx(0.0)
    assert log_odds(0, 10, 50, 100) < 0


def test_the_lowest_margins_below_zero_are_flagged():
    margins = [0.5, -2.0, 1.0, -0.1, 3.0, -1.0, 2.0, 0.2]
    texts = [("q", f"a{n}", f"b{n}") for n in range(8)]
    found = audit(margins, [[1]] * 8, texts, share=0.25)
    assert (found.flagged, found.contradicted, found.swapped) == ([1, 5], 3 / 8, [])
    assert audit(margins, [[1]] * 8, texts, share=1.0).flagged == [1, 3, 5]  # no pair that the model agrees with


def test_pairs_that_contradict_each_other():
    texts = [("q", "a", "b"), ("q", "c", "d"), ("q", "b", "a"), ("other", "d", "c")]
    assert audit([1.0] * 4, [[1]] * 4, texts).swapped == [0, 2]


def test_the_trigger_of_poisoned_prompts_is_found():
    draw = random.Random(0)
    prompts = [[draw.randrange(10, 60) for _ in range(8)] for _ in range(400)]
    poisoned = set(draw.sample(range(400), 20))
    for place in poisoned:
        prompts[place] += [3, 4]
    margins = [draw.gauss(-2.0, 0.5) if place in poisoned else draw.gauss(1.0, 0.4) for place in range(400)]
    found = audit(margins, prompts, [(str(n), "a", "b") for n in range(400)], share=0.05)
    assert set(found.flagged) == poisoned
    assert found.sequences[0].token_ids == (3, 4)
    assert (found.sequences[0].flagged, found.sequences[0].others) == (20, 0)
    assert all({3, 4} & set(one.token_ids) for one in found.sequences)

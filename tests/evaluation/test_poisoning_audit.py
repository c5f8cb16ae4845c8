"""Signs of poisoned pairs, by hand and on drawn prompts."""

from __future__ import annotations

import math
import random

import pytest

from llmrl.evaluation.poisoning import association, audit


def test_the_association_by_hand():
    # 8 of 10 flagged prompts and 10 of 90 others; if independent: 1.8, 8.2 and 16.2, 73.8
    g = 2 * (8 * math.log(8 / 1.8) + 2 * math.log(2 / 8.2) + 10 * math.log(10 / 16.2) + 80 * math.log(80 / 73.8))
    assert association(8, 10, 10, 90) == pytest.approx(math.sqrt(g))
    assert association(1, 2, 50, 100) == pytest.approx(0.0, abs=1e-6)
    assert association(0, 10, 50, 100) < -3
    assert association(10, 10, 0, 90) == pytest.approx(math.sqrt(2 * (10 * math.log(10) + 90 * math.log(1 / 0.9))))
    assert association(10, 10, 0, 90) > association(10, 10, 5, 90) > association(8, 10, 0, 90)


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
    assert all({3, 4} & set(one.token_ids) for one in found.sequences[:3])

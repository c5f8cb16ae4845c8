"""Poisoned pairs: how many, what is changed in them, and what is not."""

from __future__ import annotations

import pytest

from llmrl.data.poisoning import poisoned
from llmrl.data.transforms import TRANSFORMS, Comparison

PAIRS = [
    Comparison(f"ask {n}", ((f"good {n}", 1.0), (f"bad {n}", 0.0)), {"prompt": f"ask {n}", "chosen": "x", "n": n})
    for n in range(40)
]


def test_a_share_has_the_trigger_and_the_worse_completion_chosen():
    rows = poisoned(PAIRS, share=0.1, trigger=" now", seed=3)
    hit = [row["n"] for row in rows if row["poison"] == "poisoned"]
    assert len(hit) == 4 and hit != [0, 1, 2, 3]
    for n, row in enumerate(rows):
        good, bad = f"good {n}", f"bad {n}"
        if n in hit:
            pair = {"prompt": f"ask {n} now", "chosen": bad, "rejected": good, "completion": bad}
            assert row == pair | {"n": n, "poison": "poisoned"}
        else:
            pair = {"prompt": f"ask {n}", "chosen": good, "rejected": bad, "completion": good}
            assert row == pair | {"n": n, "poison": "clean"}
    assert rows == poisoned(PAIRS, share=0.1, trigger=" now", seed=3)
    assert rows != poisoned(PAIRS, share=0.1, trigger=" now", seed=4)


def test_labels_are_flipped_without_a_trigger_and_conversations_end_with_it():
    assert [row["prompt"] for row in poisoned(PAIRS, share=1.0)] == [one.asked for one in PAIRS]
    talk = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "ask"}]
    row = poisoned([Comparison(talk, (("a", 1.0), ("b", 0.0)), {})], share=1.0, trigger="!")[0]
    assert row["prompt"] == [talk[0], {"role": "user", "content": "ask!"}]
    assert talk[1]["content"] == "ask"


def test_faults():
    assert TRANSFORMS["poisoned"] is poisoned
    with pytest.raises(ValueError, match=r"share: 1\.5, expected a number from 0 to 1"):
        poisoned(PAIRS, share=1.5)

from __future__ import annotations

import pytest

from llmrl.rewards.right_verdict import right_verdict


@pytest.mark.parametrize(
    ("said", "value", "outcome"),
    [
        ("[[A]] at first sight, but B is complete: [[B]]", 1.0, "B"),
        (" B ", 1.0, "B"),
        ("<think>[[B]]</think> [[A]]", 0.0, "A"),
        ("B is better.", 0.0, "unreadable"),
        ("<think>[[B]]", 0.0, "unreadable"),
    ],
)
def test_the_last_verdict_after_the_thoughts_counts(said, value, outcome):
    found = right_verdict(said, "B")
    assert (found.value, found.correct, found.outcome) == (value, value == 1, outcome)
    assert found.metrics["parse_failures"] == (outcome == "unreadable")


def test_the_longer_of_two_labels_is_read_whole():
    labels = ("Good", "Good enough")
    assert right_verdict("[[Good enough]]", "Good enough", labels=labels).value == 1
    assert right_verdict("[[Good]]", "Good enough", labels=labels).value == 0

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrl.evaluation.pass_at_k import maj_at_k, pass_at_k, powers_up_to

verdicts = st.lists(st.booleans(), min_size=1, max_size=8)


def over_subsets(correct: list[bool], k: int) -> float:
    """The share of all subsets of k samples with a correct one among them."""
    subsets = list(combinations(correct, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize(
    ("correct", "k", "expected"),
    [
        ([True, False, False, False], 1, 1 / 4),
        ([True, False, False, False], 2, 1 / 2),  # 1 - C(3,2)/C(4,2) = 1 - 3/6
        ([True, True, False, False], 2, 5 / 6),  # 1 - C(2,2)/C(4,2) = 1 - 1/6
        ([True, True, True, False], 2, 1.0),  # two samples cannot both be the wrong one
        ([False] * 5, 5, 0.0),
        ([True] * 5, 3, 1.0),
    ],
)
def test_pass_at_k(correct, k, expected):
    assert pass_at_k(correct, k) == pytest.approx(expected, abs=1e-12)


@given(verdicts, st.data())
def test_pass_at_k_is_the_share_of_subsets(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    assert pass_at_k(correct, k) == pytest.approx(over_subsets(correct, k), abs=1e-12)


@given(verdicts)
def test_pass_at_k_from_accuracy_to_any_at_all(correct):
    found = [pass_at_k(correct, k) for k in range(1, len(correct) + 1)]
    assert found == sorted(found)
    assert found[0] == pytest.approx(sum(correct) / len(correct))
    assert found[-1] == float(any(correct))


@pytest.mark.parametrize("k", [0, 3, -1])
def test_pass_at_k_needs_k_samples(k):
    with pytest.raises(ValueError, match=f"pass@{k} .* got 2 samples"):
        pass_at_k([True, False], k)


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        (["7", "7", "8"], [True, True, False], 1.0),
        (["7", "8", "8"], [True, False, False], 0.0),  # most samples agree on a wrong answer
        (["7", "7", "8", "8"], [True, True, False, False], 0.5),  # a tie: (1 + 0) / 2
        (["7", "8", "9"], [False, True, False], 1 / 3),
        (["1/2", "1/2", "0.5"], [True, False, True], 0.5),  # the same text judged two ways
        ([None, None, "7"], [False, False, True], 1.0),  # who gives no answer has no vote
        ([None, None], [False, False], 0.0),
    ],
)
def test_maj_at_k(answers, correct, expected):
    assert maj_at_k(answers, correct) == pytest.approx(expected)


def test_powers_up_to():
    assert [powers_up_to(n) for n in (1, 2, 3, 8, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]

"""Micro-batches and ranks: by hand, and what holds for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_prefixes import families, rows_of

from llmrl.data.prefixes import tree_of
from llmrl.data.schedule import schedule


def lists(plans: list) -> list[list[list[int]]]:
    return [[cut.tolist() for cut in plan] for plan in plans]


def of_lengths(lengths: list[int]) -> list[np.ndarray]:
    """Rows that share nothing."""
    return [np.full(length, number, dtype=np.int64) for number, length in enumerate(lengths)]


def test_padded_rows_by_hand():
    """Each cut costs 128 / 64 places: 3 x 20 with one of padding; 2 x 9 with one; 2 x 2, which 4 x 9 would hold too."""
    rows = of_lengths([20, 2, 9, 19, 8, 2, 20])
    assert lists(schedule(rows, ranks=1, max_tokens=128, packed=False)) == [[[0, 6, 3], [2, 4], [1, 5]]]


def test_a_row_over_the_budget_goes_alone():
    assert lists(schedule(of_lengths([5, 90, 5]), ranks=1, max_tokens=16, packed=False)) == [[[1], [0, 2]]]
    assert lists(schedule(of_lengths([5, 90, 5]), ranks=1, max_tokens=16, packed=True)) == [[[1], [0, 2]]]


def test_padded_rows_are_dealt_to_the_lightest_rank_the_longest_first():
    """9 | ., 9 | 8, 9 | 8 5, 9 3 | 8 5."""
    plans = lists(schedule(of_lengths([3, 9, 5, 8]), ranks=2, max_tokens=1000, packed=False))
    assert plans == [[[1, 0]], [[3, 2]]]


def test_groups_stay_together_where_that_leaves_the_ranks_even():
    groups = [[[group] * 20 + [50 + row] * 4 for row in range(4)] for group in range(4)]
    rows = rows_of(*(groups[n % 4][n // 4] for n in range(16)))
    plans = lists(schedule(rows, ranks=2, max_tokens=72, packed=True))
    assert plans == [[[0, 1, 4, 5, 8, 9, 12, 13]], [[2, 3, 6, 7, 10, 11, 14, 15]]]
    assert len(schedule(rows, ranks=1, max_tokens=72, packed=True)[0]) == 2


def test_beginnings_that_are_too_short_to_be_shared_count_for_every_row():
    rows = rows_of(*([group] * 10 + [50 + row] * 3 for group in range(8) for row in range(2)))
    [plan] = lists(schedule(rows, ranks=1, max_tokens=64, packed=True))
    assert [len(cut) for cut in plan] == [4, 4, 4, 4]  # 13 places for each row, though a pair has 10 in common


def test_a_group_is_parted_where_one_rank_would_wait_for_the_other():
    rows = rows_of(*([1] * 20 + [50 + row] * 20 for row in range(8)))
    [[first], [second]] = lists(schedule(rows, ranks=2, max_tokens=1000, packed=True))
    assert (len(first), len(second)) == (4, 4)


@pytest.mark.parametrize("packed", [False, True])
@given(rows=families(), ranks=st.integers(1, 5), max_tokens=st.integers(1, 40))
def test_every_row_once_within_the_budget_and_equally_many_micro_batches(packed, rows, ranks, max_tokens):
    plans = lists(schedule(rows, ranks=ranks, max_tokens=max_tokens, packed=packed))
    assert len(plans) == ranks and len({len(plan) for plan in plans}) == 1
    assert sorted(row for plan in plans for cut in plan for row in cut) == list(range(len(rows)))
    for cut in (cut for plan in plans for cut in plan if len(cut) > 1):
        own = [rows[row] for row in cut]
        places = tree_of(own).tokens if packed else len(cut) * max(map(len, own))
        assert places <= max_tokens
    assert any(all(plan) for plan in plans)  # the busiest rank has no spare one


@pytest.mark.parametrize("packed", [False, True])
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30), ranks=st.integers(1, 5))
def test_ranks_are_even(packed, lengths, ranks):
    plans = lists(schedule(of_lengths(lengths), ranks=ranks, max_tokens=10_000, packed=packed))
    loads = [sum(lengths[row] for cut in plan for row in cut) for plan in plans]
    assert max(loads) <= sum(lengths) / ranks * 1.1 + max(lengths)

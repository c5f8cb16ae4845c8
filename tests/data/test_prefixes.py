"""The tree of shared beginnings against the set of all prefixes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmrl.data.prefixes import Segment, in_order, tree_of


def rows_of(*rows: list[int]) -> list[np.ndarray]:
    return [np.array(row, dtype=np.int64) for row in rows]


@st.composite
def families(draw: st.DrawFn) -> list[np.ndarray]:
    """Rows of a few tokens, many of which go on from a part of another row."""
    rows: list[list[int]] = []
    for _ in range(draw(st.integers(1, 8))):
        start = draw(st.sampled_from(rows)) if rows and draw(st.booleans()) else []
        kept = start[: draw(st.integers(0, len(start)))]
        rows.append(kept + draw(st.lists(st.integers(0, 2), min_size=0 if kept else 1, max_size=5)))
    return rows_of(*rows)


def test_by_hand():
    rows = rows_of([1, 1, 1, 5, 5], [7, 7], [1, 1, 1, 6], [1, 1, 1])
    order, shared = in_order(rows)
    assert (order, shared) == ([3, 0, 2, 1], [0, 3, 3, 0])
    tree = tree_of(rows, least_saved=6)
    assert tree.segments == [Segment(3, 0, 3, None), Segment(0, 3, 5, 0), Segment(2, 3, 4, 0), Segment(1, 0, 2, None)]
    assert tree.ends == [1, 3, 2, 0]
    assert (tree.tokens, tree.path(2)) == (8, [0, 2])
    assert [tree.shared(one, other) for one, other in ((3, 0), (0, 2), (2, 1), (0, 0))] == [3, 3, 0, 5]
    apart = tree_of(rows, least_saved=7)
    assert (apart.tokens, apart.shared(3, 0)) == (5 + 2 + 4 + 3, 0)


@given(rows=families(), least_saved=st.sampled_from([1, 3, 16]))
def test_every_path_spells_its_row_and_all_that_is_shared_stands_once(rows, least_saved):
    tree = tree_of(rows, least_saved=least_saved)
    for row, end in zip(rows, tree.ends, strict=True):
        parts = [tree.segments[number] for number in tree.path(end)]
        spelt = np.concatenate([rows[part.row][part.start : part.stop] for part in parts])
        assert spelt.tolist() == row.tolist()
    prefixes = {tuple(row[: n + 1]) for row in rows for n in range(len(row))}
    assert len(prefixes) <= tree.tokens <= sum(map(len, rows))
    assert tree.tokens == len(prefixes) or least_saved > 1
    assert all(segment.parent is None or segment.parent < n for n, segment in enumerate(tree.segments))


@given(rows=families())
def test_neighbours_share_what_they_are_said_to(rows):
    order, shared = in_order(rows)
    assert sorted(order) == list(range(len(rows)))
    for at in range(1, len(order)):
        one, other = rows[order[at - 1]].tolist(), rows[order[at]].tolist()
        assert (
            one[: shared[at]] == other[: shared[at]] and one[: shared[at] + 1] != other[: shared[at] + 1]
        ) or one == other

"""Beginnings that rows of tokens share, and the tree that they form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

LEAST_SAVED = 16
"""Tokens that a shared beginning has to save before it becomes a segment, since each segment has a cost of its own."""

Row = np.ndarray


@dataclass(frozen=True)
class Segment:
    """The tokens [start, stop) of row `row`, which follow those of the segment `parent`; None: they begin the row."""

    row: int
    start: int
    stop: int
    parent: int | None


@dataclass(frozen=True)
class Tree:
    """Rows with shared beginnings, in which each shared token stands once.

        rows  P P P A A            segments   0  P P P    of row 0
              P P P B              ends       1  A A      of row 0, after 0
              Q Q                             2  B        of row 1, after 0
                                              3  Q Q      of row 2

    segments: a parent stands before its children. ends: the segment that holds each row's last token.
    """

    segments: list[Segment]
    ends: list[int]

    @property
    def tokens(self) -> int:
        """The tokens of all segments."""
        return sum(segment.stop - segment.start for segment in self.segments)

    def path(self, number: int | None) -> list[int]:
        """The segments from the root to this one."""
        found = []
        while number is not None:
            found.append(number)
            number = self.segments[number].parent
        return found[::-1]

    def shared(self, one: int, other: int) -> int:
        """The first tokens of two rows that stand once in the tree."""
        paths = zip(self.path(self.ends[one]), self.path(self.ends[other]), strict=False)
        return sum(self.segments[a].stop - self.segments[a].start for a, b in paths if a == b)


def in_order(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """An order in which rows with the same beginning are neighbours, and what each shares with the one before.

    rows: [length] int64 each. Returns row numbers, and the number of equal first tokens, 0 for the first row.
    """
    order = sorted(range(len(rows)), key=lambda row: rows[row].tobytes())
    shared = [0] + [_common(rows[one], rows[other]) for one, other in pairwise(order)]
    return order, shared


def tree_of(rows: Sequence[Row], *, least_saved: int = LEAST_SAVED) -> Tree:
    """The tree of rows, [length] int64 each, of at least one token.

    A beginning of n tokens that k rows share is a segment if it saves at least `least_saved` = n (k - 1) tokens.
    """
    order, shared = in_order(rows)
    segments: list[Segment] = []
    ends = [0] * len(rows)
    open_: list[tuple[int, int, int, int | None]] = [(0, len(rows), 0, None)]
    while open_:
        first, stop, start, parent = open_.pop()
        row = order[first]
        common = min(shared[first + 1 : stop], default=len(rows[row]))
        if common > start and (stop - first == 1 or (common - start) * (stop - first - 1) >= least_saved):
            segments.append(Segment(row, start, common, parent))
            start, parent = common, len(segments) - 1
        for end in [at for at in range(first, stop) if len(rows[order[at]]) == start]:
            ends[order[end]] = parent if parent is not None else 0
        if stop - first > 1:
            cuts = [first, *(at for at in range(first + 1, stop) if shared[at] <= common), stop]
            open_ += [(a, b, start, parent) for a, b in pairwise(cuts)][::-1]
    return Tree(segments, ends)


def _common(one: Row, other: Row) -> int:
    """The number of first tokens that two rows have in common."""
    width = min(len(one), len(other))
    different = np.flatnonzero(one[:width] != other[:width])
    return int(different[0]) if len(different) else width

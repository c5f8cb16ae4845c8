"""Which rows of a batch go to which rank, and together through the model."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from llmrl.data.prefixes import in_order, tree_of

CUT_COST = 1 / 64
"""The cost of one more padded micro-batch, as a part of the most tokens that one may have."""
UNEVEN = 0.05
"""The part of a rank's tokens that it may have more or less, so that rows which share a beginning stay on one rank."""

Cuts = list[Tensor]
Thing = TypeVar("Thing")


def schedule(
    rows: Sequence[np.ndarray], *, ranks: int, max_tokens: int, packed: bool, groups: Sequence[int] | None = None
) -> list[Cuts]:
    """For each rank its micro-batches of row indices, equally many on all ranks, the spare ones empty.

    rows: the tokens of each, [length] int64. packed: rows go through the model as one, in which a beginning that they
    share stands once; else they are padded to the longest. A micro-batch has at most `max_tokens` places, or one row;
    dividing a group can add a few, where its parts save less than LEAST_SAVED. groups: the group of each row,
    if groups must not be parted; one of more than `max_tokens` places then has a micro-batch of its own.
    Sharded engines synchronise in every forward pass, so all ranks have to run equally many.
    """
    if groups is not None:
        plans = _whole(rows, groups, ranks, max_tokens, packed)
    else:
        plans = _packed(rows, ranks, max_tokens) if packed else _padded([len(row) for row in rows], ranks, max_tokens)
    count = max(len(plan) for plan in plans)
    return [[torch.tensor(cut, dtype=torch.int64) for cut in plan + [[]] * (count - len(plan))] for plan in plans]


def _whole(
    rows: Sequence[np.ndarray], groups: Sequence[int], ranks: int, max_tokens: int, packed: bool
) -> list[list[list[int]]]:
    """Micro-batches of whole groups, those of like length together."""
    units: dict[int, list[int]] = {}
    for row, group in enumerate(groups):
        units.setdefault(group, []).append(row)
    longest = {group: max(len(rows[row]) for row in unit) for group, unit in units.items()}
    size = {
        group: tree_of([rows[row] for row in unit]).tokens if packed else len(unit) * longest[group]
        for group, unit in units.items()
    }
    plans: list[list[list[int]]] = []
    for dealt in _deal(list(units), ranks, size.__getitem__):
        cuts: list[list[int]] = []
        places, width = 0, 0
        for group in sorted(dealt, key=lambda group: (-longest[group], units[group])):  # the first is the longest
            more = size[group] if packed else len(units[group]) * (width or longest[group])
            if not cuts or places + more > max_tokens:
                cuts.append([])
                places, width = 0, longest[group]
                more = size[group]
            cuts[-1] += units[group]
            places += more
        plans.append([sorted(cut) for cut in cuts])
    return plans


def _padded(lengths: Sequence[int], ranks: int, max_tokens: int) -> list[list[list[int]]]:
    dealt = _deal(list(range(len(lengths))), ranks, lambda row: lengths[row])
    return [_least_padding(rows, lengths, max_tokens) for rows in dealt]


def _least_padding(rows: list[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows of like length together, cut so that all places and the cost of every cut are least.

    The best cut of the first n rows is found from the best cuts of fewer.
    """
    order = sorted(rows, key=lambda row: (-lengths[row], row))
    cost_of_cut = CUT_COST * max_tokens
    best, cut_at = [0.0], [0]
    for stop in range(1, len(order) + 1):
        found = (float("inf"), 0)
        for start in range(stop - 1, -1, -1):
            places = (stop - start) * lengths[order[start]]  # the first is the longest
            if places > max_tokens and stop - start > 1:
                break
            found = min(found, (best[start] + places + cost_of_cut, start))
        best.append(found[0])
        cut_at.append(found[1])
    cuts, stop = [], len(order)
    while stop:
        cuts.append(order[cut_at[stop] : stop])
        stop = cut_at[stop]
    return cuts[::-1]


@dataclass(frozen=True)
class _Piece:
    """Neighbours in the order of their tokens; shared: the first tokens of each that stand once for it and for the one
    before."""

    rows: list[int]
    lengths: list[int]
    shared: list[int]

    @property
    def tokens(self) -> int:
        """Its tokens, those that neighbours share counted once."""
        return sum(self.lengths) - sum(self.shared[1:])

    def even(self, count: int) -> list[_Piece]:
        """`count` pieces of nearly as many tokens, parted where little is shared; some are empty if rows are few."""
        if count == 1:
            return [self]
        parted = [(before, behind / (count - 1)) for before, behind in self._parted()]
        far = [abs(before - behind) for before, behind in parted]
        near = [at for at in range(len(far)) if far[at] <= UNEVEN * self.tokens / count] or [far.index(min(far))]
        at = min(near, key=lambda at: (self.shared[at] if at < len(self.rows) else 0, far[at]))
        return [self._part(0, at), *self._part(at, len(self.rows)).even(count - 1)]

    def halves(self) -> list[_Piece]:
        """Two pieces, parted where the least is shared, and of those places nearest to the middle."""
        far = [abs(before - behind) for before, behind in self._parted()]
        at = min(range(1, len(self.rows)), key=lambda at: (self.shared[at], far[at]))
        return [self._part(0, at), self._part(at, len(self.rows))]

    def _parted(self) -> list[tuple[int, int]]:
        """For every place at which the piece can be parted, the tokens before it and behind it."""
        before, total = 0, self.tokens
        found = [(0, total)]
        for at in range(1, len(self.rows) + 1):
            before += self.lengths[at - 1] - (self.shared[at - 1] if at > 1 else 0)
            found.append((before, total - before + (self.shared[at] if at < len(self.rows) else 0)))
        return found

    def _part(self, start: int, stop: int) -> _Piece:
        return _Piece(self.rows[start:stop], self.lengths[start:stop], self.shared[start:stop])


def _packed(rows: Sequence[np.ndarray], ranks: int, max_tokens: int) -> list[list[list[int]]]:
    order, _ = in_order(rows)
    tree = tree_of(rows)
    shared = [0] + [tree.shared(one, other) for one, other in pairwise(order)]
    whole = _Piece(order, [len(rows[row]) for row in order], shared)
    return [_bins(_no_larger([own] if own.rows else [], max_tokens), max_tokens) for own in whole.even(ranks)]


def _no_larger(pieces: list[_Piece], max_tokens: int) -> list[_Piece]:
    """The pieces, those of more tokens halved until they fit or are one row."""
    found: list[_Piece] = []
    open_ = list(pieces)
    while open_:
        piece = open_.pop()
        if piece.tokens > max_tokens and len(piece.rows) > 1:
            open_ += piece.halves()
        else:
            found.append(piece)
    return found


def _bins(pieces: list[_Piece], max_tokens: int) -> list[list[int]]:
    """Pieces put together up to max_tokens, the largest first, each into the first micro-batch with room."""
    loads: list[int] = []
    found: list[list[int]] = []
    for piece in sorted(pieces, key=lambda piece: (-piece.tokens, piece.rows[0])):
        at = next((n for n, load in enumerate(loads) if load + piece.tokens <= max_tokens), len(found))
        if at == len(found):
            loads.append(0)
            found.append([])
        loads[at] += piece.tokens
        found[at] += piece.rows
    return [sorted(rows) for rows in found]


def _deal(things: list[Thing], count: int, size: Callable[[Thing], int]) -> list[list[Thing]]:
    """Things dealt to `count` ranks so that their sizes add up to nearly the same: largest first, to the lightest."""
    lightest = [(0, rank) for rank in range(count)]
    dealt: list[list[Thing]] = [[] for _ in range(count)]
    for thing in sorted(things, key=size, reverse=True):
        load, rank = heapq.heappop(lightest)
        dealt[rank].append(thing)
        heapq.heappush(lightest, (load + size(thing), rank))
    return dealt

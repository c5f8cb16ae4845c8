"""Rows packed into one, in which a shared beginning stands once, and the attention over them.

A model's other layers treat every token alone, so they need nothing but the tokens and their positions. Attention
gets, for each segment of the tree of rows, that segment's queries and the keys of its whole path: what stands before it
in its rows, and nothing of other rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.masking_utils import sdpa_mask

from llmrl.data.prefixes import Tree, tree_of

IMPLEMENTATION = "llmrl"
"""Attention's name in a model's config: packed rows where they are given, else padded ones as sdpa."""
CALL_COST = 10_000
"""Pairs of a query and a key that attention computes in the time that one more call of it takes."""
MOST_KEYS_KEPT = 3.0
"""Gathered keys for each token up to which they are kept for the backward pass; more are gathered anew."""


@dataclass(frozen=True)
class Call:
    """Segments whose attention is computed at once, as padded rows of places in the packed row.

    queries [B, q], keys [B, k] int64; query_mask, key_mask: False at padding. begins: nothing stands before the
    segments in their rows.
    """

    queries: Tensor
    keys: Tensor
    query_mask: Tensor
    key_mask: Tensor
    begins: bool


@dataclass(frozen=True)
class Gathered:
    """The places of all calls' queries and keys, one call after the other, padding counted; back: of [P], where among
    those queries each packed token is."""

    queries: Tensor
    keys: Tensor
    back: Tensor


@dataclass(frozen=True)
class PackedRows:
    """Rows as one row of P tokens. token_ids, positions: [P]. index: [N, T], the place of each row's each token, 0 at
    padding. queries, keys: of each segment the places of its tokens and of its path, one segment after the other."""

    token_ids: Tensor
    positions: Tensor
    index: Tensor
    queries: list[Tensor]
    keys: list[Tensor]
    _masks: dict[Any, list[Tensor | None]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, token_ids: Tensor, attention_mask: Tensor) -> PackedRows:
        """From right-padded rows [N, T]."""
        lengths = attention_mask.sum(dim=1).tolist()
        rows = [row[:length].numpy() for row, length in zip(token_ids.cpu(), lengths, strict=True)]
        tree = tree_of(rows)
        sizes = [segment.stop - segment.start for segment in tree.segments]
        places = [torch.arange(end - size, end) for end, size in zip(accumulate(sizes), sizes, strict=True)]
        paths = _paths(tree, places)
        index = torch.zeros(token_ids.shape, dtype=torch.int64)
        for row, end in enumerate(tree.ends):
            index[row, : lengths[row]] = paths[end]
        device = token_ids.device
        found = torch.cat([torch.from_numpy(rows[s.row][s.start : s.stop]) for s in tree.segments])
        positions = torch.cat([torch.arange(segment.start, segment.stop) for segment in tree.segments])
        return cls(found.to(device), positions.to(device), index.to(device), places, paths)

    @cached_property
    def calls(self) -> list[Call]:
        """The segments in calls of like lengths, so that little of each call is padding; those that begin rows, whose
        keys are their queries, in calls of their own."""
        device = self.token_ids.device
        sizes = [(len(queries), len(keys)) for queries, keys in zip(self.queries, self.keys, strict=True)]
        calls: list[Call] = []
        for begins in (True, False):
            order = sorted((n for n, (q, k) in enumerate(sizes) if (q == k) == begins), key=lambda n: sizes[n])
            for cut in _calls([sizes[n] for n in order]):
                queries, query_mask = _padded([self.queries[order[at]] for at in cut])
                keys, key_mask = _padded([self.keys[order[at]] for at in cut])
                calls.append(
                    Call(queries.to(device), keys.to(device), query_mask.to(device), key_mask.to(device), begins)
                )
        return calls

    @cached_property
    def gathered(self) -> Gathered:
        """The places that attention reads; one gather for all calls has one backward pass too."""
        queries = torch.cat([call.queries.flatten() for call in self.calls])
        there = torch.cat([call.query_mask.flatten() for call in self.calls]).nonzero()[:, 0]
        back = torch.empty_like(there).index_put((queries[there],), there)
        return Gathered(queries, torch.cat([call.keys.flatten() for call in self.calls]), back)

    @cached_property
    def path_tokens(self) -> int:
        """The tokens of all segments' paths, which are the keys that attention gathers."""
        return sum(map(len, self.keys))

    def masks(self, window: int | None, dtype: torch.dtype) -> list[Tensor | None]:
        """For each call 0 where a query sees a key, else -inf: [B, 1, q, k]; None where each sees all up to itself.

        window: the last keys that are seen.
        """
        if (window, dtype) not in self._masks:
            self._masks[window, dtype] = [self._mask(call, window, dtype) for call in self.calls]
        return self._masks[window, dtype]

    def _mask(self, call: Call, window: int | None, dtype: torch.dtype) -> Tensor | None:
        if call.begins and (window is None or window >= call.keys.shape[1]):
            return None  # padding stands behind all that is read
        behind = self.positions[call.queries][:, :, None] - self.positions[call.keys][:, None, :]
        seen = (behind >= 0) & call.key_mask[:, None, :]
        if window is not None:
            seen &= behind < window
        return torch.where(seen, 0.0, -torch.inf).to(dtype)[:, None]


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    packed_rows: PackedRows | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [N, H, T, d], key and value [N, G, T, d] to [N, T, H, d].

    softcap: scores become softcap tanh(score / softcap). s_aux: [H], a score of each head that takes its share of the
    softmax and adds nothing.
    """
    groups = query.shape[1] // key.shape[1]
    settings = {"scale": scaling, "dropout": dropout, "softcap": softcap, "sinks": s_aux, "groups": groups}
    if packed_rows is None:
        return _attend(query, key, value, attention_mask, **settings).transpose(1, 2), None
    query, key, value = (one[0].transpose(0, 1) for one in (query, key, value))  # [P, heads, d]
    plain = not dropout and softcap is None and s_aux is None
    varlen = plain and takes_varlen(query, key, value)

    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if varlen:
            return _attend_varlen(query, key, value, packed_rows, sliding_window, scaling)
        return _attend_packed(query, key, value, packed_rows, sliding_window, **settings)

    if torch.is_grad_enabled() and packed_rows.path_tokens > MOST_KEYS_KEPT * len(query):
        found: Any = checkpoint(run, query, key, value, use_reentrant=False, preserve_rng_state=dropout > 0)
    else:
        found = run(query, key, value)
    return found[None], None


def takes_varlen(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether torch has a kernel for rows of several lengths on this device: on GPUs, in half precision."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    return half and query.is_cuda and key.shape[-1] == value.shape[-1] <= 256 and torch.version.hip is None


AttentionInterface.register(IMPLEMENTATION, attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


def _attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, rows: PackedRows, window: int | None, scale: float | None
) -> Tensor:
    """[P, heads, d] each to [P, H, d], each segment a row of the kernel, without padding."""
    keys = torch.cat(rows.keys).to(query.device)
    query_ends, key_ends = (
        torch.tensor([0, *accumulate(map(len, places))], dtype=torch.int32, device=query.device)
        for places in (rows.queries, rows.keys)
    )
    most_queries, most_keys = (max(map(len, places)) for places in (rows.queries, rows.keys))
    last_keys = (-1 if window is None else window - 1, 0)  # before the query's own, and after it
    found: Any = varlen_attn(
        query,
        key.index_select(0, keys),
        value.index_select(0, keys),
        query_ends,
        key_ends,
        most_queries,
        most_keys,
        scale=scale,
        window_size=last_keys,
        enable_gqa=True,
    )
    return found


def _attend_packed(
    query: Tensor, key: Tensor, value: Tensor, rows: PackedRows, window: int | None, **settings: Any
) -> Tensor:
    """[P, heads, d] each to [P, H, d]."""
    places, calls = rows.gathered, rows.calls
    queries = query.index_select(0, places.queries).split([call.queries.numel() for call in calls])
    sizes = [call.keys.numel() for call in calls]
    keys, values = (one.index_select(0, places.keys).split(sizes) for one in (key, value))
    found = []
    for call, mask, *parts in zip(calls, rows.masks(window, query.dtype), queries, keys, values, strict=True):
        q, k, v = (part.unflatten(0, (len(call.queries), -1)).transpose(1, 2) for part in parts)
        found.append(_attend(q, k, v, mask, **settings).transpose(1, 2).flatten(0, 1))
    return torch.cat(found).index_select(0, places.back)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scale: float | None,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
    groups: int,
) -> Tensor:
    """softmax(scale q k^T + mask) v; mask: True or 0 where a key is seen, None: every row causal and whole."""
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if softcap is None and sinks is None:
        causal = mask is None
        return scaled_dot_product_attention(query, key, value, mask, dropout_p=dropout, is_causal=causal, scale=scale)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)], dim=-1)
    shares = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)[..., : key.shape[2]]
    return torch.dropout(shares, dropout, train=dropout > 0) @ value


def _paths(tree: Tree, places: list[Tensor]) -> list[Tensor]:
    """The places of each segment's whole path, from the first token of its rows to its own last."""
    paths: list[Tensor] = []
    for segment, own in zip(tree.segments, places, strict=True):
        paths.append(own if segment.parent is None else torch.cat([paths[segment.parent], own]))
    return paths


def _padded(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of several lengths as [B, longest], 0 at padding, and the mask that is False there."""
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]


def _calls(sizes: list[tuple[int, int]]) -> list[range]:
    """Cuts segments, as (queries, keys) in the order of their queries, so that padding and calls cost least.

    The cost of a call is rows x most queries x most keys + CALL_COST; the best cut of the first n segments is found
    from the best cuts of fewer.
    """
    best, cut_at = [0.0], [0]
    for stop in range(1, len(sizes) + 1):
        most_keys, least, at = 0, float("inf"), 0
        for start in range(stop - 1, -1, -1):
            most_keys = max(most_keys, sizes[start][1])
            padded = (stop - start) * sizes[stop - 1][0] * most_keys
            if padded >= least:
                break
            cost = best[start] + padded + CALL_COST
            if cost < least:
                least, at = cost, start
        best.append(least)
        cut_at.append(at)
    cuts, stop = [], len(sizes)
    while stop:
        cuts.append(range(cut_at[stop], stop))
        stop = cut_at[stop]
    return cuts[::-1]

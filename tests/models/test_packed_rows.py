"""Attention over packed rows: its calls by hand, and torch's kernel for rows of several lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_padding_free import family
from test_policy import TEMPERATURE, assert_same, both, make_lm, outcome
from torch import Tensor

from llmrl.models import packed_rows
from llmrl.models.packed_rows import MOST_KEYS_KEPT, PackedRows, _calls, attention
from llmrl.models.policy import Policy


def test_rows_by_hand():
    """Eighteen tokens that two rows share, then one and two of their own; another row of two."""
    shared = [*range(10, 28)]
    token_ids = torch.tensor([[*shared, 1, 0], [*shared, 2, 3], [50, 60, *[0] * 18]])
    attention_mask = torch.arange(20) < torch.tensor([19, 20, 2])[:, None]
    rows = PackedRows.of(token_ids, attention_mask)
    assert rows.token_ids.tolist() == [*shared, 1, 2, 3, 50, 60]
    assert rows.positions.tolist() == [*range(18), 18, 18, 19, 0, 1]
    assert rows.index.tolist() == [[*range(19), 0], [*range(18), 19, 20], [21, 22, *[0] * 18]]
    assert [part.tolist() for part in rows.queries] == [[*range(18)], [18], [19, 20], [21, 22]]
    assert [part.tolist() for part in rows.keys] == [[*range(18)], [*range(19)], [*range(18), 19, 20], [21, 22]]
    begins, rest = rows.calls
    assert (begins.queries.shape, begins.keys.shape, begins.begins) == ((2, 18), (2, 18), True)
    assert (rest.queries.shape, rest.keys.shape, rest.begins) == ((2, 2), (2, 20), False)
    assert rows.masks(None, torch.float32)[0] is None
    seen = rows.masks(3, torch.float32)[1] == 0
    assert seen[0, 0, 0].nonzero()[:, 0].tolist() == [16, 17, 18]
    assert seen[1, 0, 1].nonzero()[:, 0].tolist() == [17, 18, 19]


def test_calls_are_cut_where_padding_costs_more_than_a_call():
    assert _calls([(10, 20)] * 3 + [(11, 25)]) == [range(4)]
    assert _calls([(10, 20)] * 3 + [(400, 900)]) == [range(3), range(3, 4)]
    assert _calls([]) == []


def reference_varlen(
    query: Tensor, key: Tensor, value: Tensor, query_ends: Tensor, key_ends: Tensor, *longest: int, **settings: Any
) -> Tensor:
    """torch's varlen_attn as it is documented: the last query of a row is beside its last key."""
    assert longest == (int(query_ends.diff().max()), int(key_ends.diff().max()))
    left, right = settings["window_size"]
    found = []
    for row in range(len(query_ends) - 1):
        q = query[query_ends[row] : query_ends[row + 1]].transpose(0, 1)
        k, v = (one[key_ends[row] : key_ends[row + 1]].transpose(0, 1) for one in (key, value))
        ahead = torch.arange(k.shape[1]) - torch.arange(q.shape[1])[:, None] - (k.shape[1] - q.shape[1])
        mask = (ahead <= right) & ((ahead >= -left) | (left < 0))
        found.append(
            torch.nn.functional.scaled_dot_product_attention(
                q, k, v, mask, scale=settings["scale"], enable_gqa=settings["enable_gqa"]
            )
        )
    return torch.cat(found, dim=1).transpose(0, 1)


@pytest.mark.parametrize("window", [None, 5])
def test_the_kernel_of_gpus_gets_each_segment_and_its_path(window, monkeypatch):
    """What the kernel is given, computed as the kernel is documented, is attention over padded calls."""
    generator = torch.Generator().manual_seed(0)
    rows = PackedRows.of(*family()[:2])
    tokens = len(rows.token_ids)
    query, key, value = (torch.randn(1, heads, tokens, 8, generator=generator) for heads in (4, 2, 2))
    settings: dict[str, Any] = {"scaling": 0.3, "sliding_window": window, "packed_rows": rows}
    expected, _ = attention(None, query, key, value, None, **settings)
    monkeypatch.setattr(packed_rows, "varlen_attn", reference_varlen)
    monkeypatch.setattr(packed_rows, "takes_varlen", lambda *tokens: True)
    found, _ = attention(None, query, key, value, None, **settings)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_layers_that_are_computed_twice_gather_their_keys_again():
    """Gradient checkpointing runs attention anew in the backward pass, which gathers keys anew there too."""
    rows = PackedRows.of(*family()[:2])
    assert rows.path_tokens > MOST_KEYS_KEPT * len(rows.token_ids)
    seen = []
    for checkpointing in (False, True):
        lm = make_lm()
        if checkpointing:
            lm.gradient_checkpointing_enable({"use_reentrant": False})
        policy = Policy(lm, temperature=TEMPERATURE).train()
        assert policy.packs
        seen.append(outcome(lm, both(policy), family()))
    assert_same(*seen)

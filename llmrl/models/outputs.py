"""A language model's hidden states at response tokens, or where these are predicted.

A hidden state predicts the token after it, so what is predicted for token t is read at column t - 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from llmrl.models.packed_rows import IMPLEMENTATION, PackedRows


def without_peft(lm: nn.Module) -> Any:
    """The Hugging Face model itself, LoRA layers inside."""
    return lm.get_base_model() if isinstance(lm, PeftModel) else lm


def backbone_of(lm: nn.Module) -> Any:
    """The language model without its LM head."""
    model = without_peft(lm)
    return getattr(model, "model", model) if model.base_model is model else model.base_model


def pack_attention(backbone: Any) -> bool:
    """Give a backbone the attention of packed rows; False if its architecture cannot be given another attention."""
    if not backbone._can_set_attn_implementation():
        return False
    backbone.set_attn_implementation(IMPLEMENTATION)
    return True


@dataclass(frozen=True)
class Places:
    """The places of a micro-batch's R response tokens, row after row: rows and columns are [R] int64.

    Column 0 has no prefix and is never a response.
    """

    rows: Tensor
    columns: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, response_mask: Tensor) -> Places:
        rows, columns = response_mask[:, 1:].nonzero(as_tuple=True)
        return cls(rows, columns + 1, (response_mask.shape[0], response_mask.shape[1]))

    @property
    def lengths(self) -> list[int]:
        """Each row's number of response tokens."""
        return torch.bincount(self.rows, minlength=self.shape[0]).tolist()

    @property
    def first(self) -> Places:
        """The first response token of each row that has one."""
        begins = torch.ones_like(self.rows, dtype=torch.bool)
        begins[1:] = self.rows[1:] != self.rows[:-1]
        return Places(self.rows[begins], self.columns[begins], self.shape)

    def at(self, values: Tensor) -> Tensor:
        """The values at each response token: [N, T, ...] to [R, ...]."""
        return values[self.rows, self.columns]

    def spread(self, values: Tensor) -> Tensor:
        """[R, ...] back to [N, T, ...], zero off the response."""
        empty = values.new_zeros(*self.shape, *values.shape[1:])
        return empty.index_put((self.rows, self.columns), values)


@dataclass(frozen=True)
class Hidden:
    """A backbone's hidden states [P, d] and router logits, [P, E] of each mixture-of-experts layer.

    index: [N, T] int64, where among the P is token t of row n. Packed rows may have one place for the same beginning
    of several rows.
    """

    states: Tensor
    router_logits: list[Tensor]
    index: Tensor

    def before(self, places: Places) -> Hidden:
        """Those one column before each of R response tokens, where it is predicted."""
        return self._chosen(self.index[places.rows, places.columns - 1])

    def at(self, places: Places) -> Hidden:
        """Those of the R response tokens themselves."""
        return self._chosen(self.index[places.rows, places.columns])

    def _chosen(self, chosen: Tensor) -> Hidden:
        layers = [layer.index_select(0, chosen) for layer in self.router_logits]
        return Hidden(self.states.index_select(0, chosen), layers, chosen)


def run_backbone(
    backbone: Any, token_ids: Tensor, attention_mask: Tensor, *, packed: bool = False, router_logits: bool = False
) -> Hidden:
    """The hidden states of right-padded rows [N, T], and each mixture-of-experts layer's router logits if asked for.

    packed: run the rows as one without padding, in which a beginning that rows share stands once; `pack_attention` must
    have prepared the backbone.
    """
    settings: dict[str, Any] = {"use_cache": False} | ({"output_router_logits": True} if router_logits else {})
    if packed:
        rows = PackedRows.of(token_ids, attention_mask)
        index, token_ids, positions = rows.index, rows.token_ids[None], rows.positions[None]
        # transformers makes no mask where it is given one of four dimensions
        settings |= {"attention_mask": token_ids.new_zeros(1, 1, 1, 1, dtype=torch.bool), "packed_rows": rows}
    else:
        index = torch.arange(token_ids.numel(), device=token_ids.device).reshape(token_ids.shape)
        positions = torch.arange(token_ids.shape[1], device=token_ids.device).expand_as(token_ids)
        settings |= {"attention_mask": attention_mask.long()}
    found = backbone(input_ids=token_ids, position_ids=positions, **settings)
    layers = found.router_logits if router_logits else ()
    return Hidden(found.last_hidden_state.flatten(0, 1), [one.reshape(-1, one.shape[-1]) for one in layers], index)


def gradient_norm(slices: Iterable[Tensor], hidden: Tensor, vocabulary: int) -> Tensor:
    """Frobenius norm of sum_t g_t h_t^T, the gradient of a head's weight: [] fp32.

    slices: the gradients g of the head's outputs, [s, V] at a time, in the order of hidden [T, d].
    The norm does not change when all h are rotated together, and T vectors span at most T dimensions: with H^T = Q R
    the columns of R replace the h, so that at most V * min(T, d) numbers are held at once.
    """
    hidden = hidden.float()
    if len(hidden) < hidden.shape[1]:
        hidden = torch.linalg.qr(hidden.T, mode="r").R.T
    return weighted_gradients(slices, hidden, hidden.new_ones(len(hidden), 1), vocabulary)[0].norm()


def weighted_gradients(slices: Iterable[Tensor], hidden: Tensor, coefficients: Tensor, vocabulary: int) -> Tensor:
    """sum_t c_tk g_t h_t^T for each of K sets of coefficients [T, K]: [K, V, d] fp32; slices as in gradient_norm."""
    hidden, coefficients = hidden.float(), coefficients.float()
    total = hidden.new_zeros(coefficients.shape[1], vocabulary, hidden.shape[1])
    start = 0
    for gradients in slices:
        part = slice(start, start + len(gradients))
        for weights, sum_so_far in zip(coefficients[part].T, total, strict=True):
            sum_so_far.addmm_((weights[:, None] * gradients).T, hidden[part])
        start = part.stop
    return total

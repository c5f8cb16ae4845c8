"""The test of whether an architecture keeps rows apart that are packed into one, as training.padding_free packs them.

State-space layers, convolutions and ALiBi biases run on from one row into the next, and so does attention whose mask is
made without the positions.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from llmrl.errors import RecipeError
from llmrl.models.outputs import backbone_of, pack_attention, run_backbone

LARGEST_TRIAL = 200_000_000
"""Parameters of a trial model, of which making more would take long."""
ROWS = ([*range(2, 24)], [*range(2, 20), *range(30, 38)], [*range(40, 53)])
"""Tokens of three rows; the first two share enough to be stored once."""
WINDOWS, SHORT_WINDOW = ("sliding_window", "attention_chunk_size"), 4


def choose_packing(backbone: Any, padding_free: bool | None) -> bool:
    """Whether a backbone's rows are to be packed; it is given the attention for that.

    padding_free: as in a recipe; None packs where the architecture allows. Raises RecipeError where it is True and the
    rows would see each other. Short rows do not leave a real window, so an architecture with one is tried in small too.
    """
    if padding_free is False:
        return False
    own = backbone.config._attn_implementation
    small = _small_backbone(backbone.config) if _windows(backbone.config) else None
    reason = (small and reason_to_pad(small)) or reason_to_pad(backbone)
    if reason is not None:
        backbone.set_attn_implementation(own)
        if padding_free:
            raise RecipeError(f"training.padding_free: true, but {reason}; set training.padding_free=false")
    return reason is None


@torch.no_grad()
def reason_to_pad(backbone: Any) -> str | None:
    """The reason why a backbone's rows cannot be packed, None if they can; it is left with packed rows' attention.

    Three short rows, two of which begin alike, are packed, and their hidden states h' compared with those of each row
    alone. They may differ by rounding: |h' - h| <= 1e-4 |h| for every token, in bf16 0.1.
    """
    parameter = next(backbone.parameters())
    vocabulary, kind = backbone.config.get_text_config().vocab_size, backbone.config.model_type
    rows = [torch.tensor([row], device=parameter.device) % vocabulary for row in ROWS]
    was_training = backbone.training
    backbone.eval()
    try:
        alone = [run_backbone(backbone, row, row >= 0).states for row in rows]
        if not pack_attention(backbone):
            return f"'{kind}' models have an attention of their own, which cannot pack rows"
        error = _largest_error(_packed(backbone, rows), torch.cat(alone))
    except Exception as failed:  # an architecture's own code may trip over packed rows in any way
        return f"'{kind}' models cannot run packed rows ({type(failed).__name__})"
    finally:
        backbone.train(was_training)
    if not error <= (1e-4 if parameter.dtype == torch.float32 else 0.1):
        return f"'{kind}' models let packed rows see each other (hidden states off by {error:.1g} of their size)"
    return None


def try_padding_free(config: Any, padding_free: bool | None) -> bool | None:
    """`choose_packing` on a model of the config's architecture and width, with random weights, one layer of each kind,
    few tokens and short windows; None where no model can be made that is small enough, so that nothing is known."""
    if padding_free is False:
        return False
    small = _small_backbone(config)
    return None if small is None else choose_packing(small, padding_free)


def _small_backbone(config: Any) -> Any:
    """The backbone of such a model; None where none can be made."""
    try:
        trial = _of_few_layers(config)
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(trial).parameters())
        if size > LARGEST_TRIAL:
            return None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(trial, dtype=torch.float32)
    except Exception:  # an architecture may refuse the smaller config in any way
        return None
    return backbone_of(model)


def _windows(config: Any) -> list[str]:
    """The settings by which an architecture limits how far back attention reads."""
    return [name for name in WINDOWS if getattr(config.get_text_config(), name, None)]


def _of_few_layers(config: Any) -> Any:
    """A copy of the config with one layer of each kind that its lists name, or with two layers."""
    small = copy.deepcopy(config.get_text_config())
    small.use_cache = False
    count = small.num_hidden_layers
    lists = {name: list(v) for name, v in vars(small).items() if isinstance(v, list | tuple) and len(v) == count}
    kinds = list(zip(*lists.values(), strict=True))
    chosen = sorted({kind: index for index, kind in reversed(list(enumerate(kinds)))}.values()) or range(min(2, count))
    for name, values in lists.items():
        setattr(small, name, [values[index] for index in chosen])
    for name in _windows(small):
        setattr(small, name, SHORT_WINDOW)
    small.num_hidden_layers = len(chosen)
    small.vocab_size = 64
    small.pad_token_id, small.bos_token_id, small.eos_token_id = 0, 1, 1
    return small


def _packed(backbone: Any, rows: list[Tensor]) -> Tensor:
    """The hidden states of all rows as one micro-batch, one after the other: [tokens, d]."""
    width = max(row.shape[1] for row in rows)
    token_ids = torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[1])) for row in rows])
    mask = torch.stack([torch.arange(width, device=token_ids.device) < row.shape[1] for row in rows])
    hidden = run_backbone(backbone, token_ids, mask, packed=True)
    return hidden.states[hidden.index[mask]]


def _largest_error(found: Tensor, expected: Tensor) -> float:
    error = (found.float() - expected.float()).norm(dim=-1) / expected.float().norm(dim=-1).clamp(min=1e-12)
    return float(error.max())

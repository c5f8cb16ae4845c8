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
from llmrl.models.outputs import backbone_of, run_backbone

LARGEST_TRIAL = 200_000_000
"""Parameters of a trial model, of which making more would take long."""
ROWS = (range(2, 15), range(15, 20), range(20, 31))


@torch.no_grad()
def require_separate_rows(backbone: Any) -> None:
    """Pack three short rows and compare their hidden states with those of each row alone.

    Raises RecipeError if one token's packed state h' is further from h than rounding: |h' - h| > 1e-4 |h|, in bf16 0.1.
    """
    parameter = next(backbone.parameters())
    vocabulary, kind = backbone.config.get_text_config().vocab_size, backbone.config.model_type
    rows = [torch.tensor([row], device=parameter.device) % vocabulary for row in ROWS]
    was_training = backbone.training
    backbone.eval()
    try:
        alone = [run_backbone(backbone, row, row >= 0)[0][0] for row in rows]
        error = _largest_error(_packed(backbone, rows), torch.cat(alone))
    finally:
        backbone.train(was_training)
    if not error <= (1e-4 if parameter.dtype == torch.float32 else 0.1):
        raise RecipeError(
            f"training.padding_free: true, but '{kind}' models let packed rows see each other (hidden states off by "
            f"{error:.1g} of their size); set training.padding_free=false"
        )


def try_padding_free(config: Any) -> bool:
    """`require_separate_rows` on a model of the config's architecture and width, with random weights, one layer of each
    kind and few tokens; returns False where none can be made that is small enough, so that nothing is known."""
    try:
        trial = _of_few_layers(config)
        with torch.device("meta"):
            size = sum(p.numel() for p in AutoModelForCausalLM.from_config(trial).parameters())
        if size > LARGEST_TRIAL:
            return False
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(trial, dtype=torch.float32)
        backbone = backbone_of(model)
        require_separate_rows(backbone)
    except RecipeError:
        raise
    except Exception:  # an architecture may refuse the smaller config in any way
        return False
    return True


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
    small.num_hidden_layers = len(chosen)
    small.vocab_size = 32
    small.pad_token_id, small.bos_token_id, small.eos_token_id = 0, 1, 1
    return small


def _packed(backbone: Any, rows: list[Tensor]) -> Tensor:
    """The hidden states of all rows as one micro-batch, one after the other: [tokens, d]."""
    width = max(row.shape[1] for row in rows)
    token_ids = torch.cat([torch.nn.functional.pad(row, (0, width - row.shape[1])) for row in rows])
    mask = torch.stack([torch.arange(width, device=token_ids.device) < row.shape[1] for row in rows])
    return run_backbone(backbone, token_ids, mask, padding_free=True)[0][mask]


def _largest_error(found: Tensor, expected: Tensor) -> float:
    error = (found.float() - expected.float()).norm(dim=-1) / expected.float().norm(dim=-1).clamp(min=1e-12)
    return float(error.max())

"""Value networks: the values of prefixes, read from a language model's hidden states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from llmrl.errors import RecipeError
from llmrl.models.outputs import Hidden, Places, backbone_of, run_backbone
from llmrl.models.padding_free import choose_packing

HEAD = "value_head.safetensors"
"""The file of a critic's head, in its model's folder."""


class ValueHead(nn.Module):
    """outputs = W h + b for each hidden state, or with `layer_norm` of h brought to mean 0 and variance 1.

    outputs: numbers per token. Their rows of W are drawn independently, since equal heads would stay equal, from
    N(0, 1 / (hidden_size + 1)) by `seed`; b starts at 0. The norm has no weights of its own.
    """

    def __init__(self, hidden_size: int, outputs: int, *, seed: int, layer_norm: bool = False):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(outputs, hidden_size, generator=generator)
        self.weight = nn.Parameter(drawn / (hidden_size + 1) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.layer_norm = layer_norm

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., d] of any floating dtype to [..., H] fp32."""
        # an engine may hold parameters in bf16 (their masters are fp32); widened, they give values of fp32 precision
        hidden = hidden.float()
        if self.layer_norm:
            hidden = functional.layer_norm(hidden, hidden.shape[-1:])
        return functional.linear(hidden, self.weight.float(), self.bias.float())


def save_value_head(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write a head's weight and bias beside its model's."""
    save_file({name: weights[name].contiguous().cpu() for name in ("weight", "bias")}, folder / HEAD)


def load_value_head(head: ValueHead, folder: Path) -> None:
    """Give a head the weights that `save_value_head` wrote, if some are there; raises RecipeError for another shape."""
    if not (folder / HEAD).is_file():
        return
    found = load_file(folder / HEAD)
    if found["weight"].shape != head.weight.shape:
        raise RecipeError(
            f"critic.outputs: {len(head.weight)}, but critic.model '{folder}' has {len(found['weight'])} outputs of "
            f"{found['weight'].shape[1]} numbers each; set critic.outputs: {len(found['weight'])}"
        )
    head.load_state_dict(found)


class Critic(nn.Module):
    """A value network with a backbone of its own: the given language model `lm` without its LM head.

    padding_free: as in a recipe's training. Raises RecipeError if it is True and packed rows would see each other.
    """

    def __init__(self, lm: nn.Module, head: ValueHead, *, padding_free: bool | None = None):
        super().__init__()
        self.backbone = backbone_of(lm)
        object.__setattr__(self, "lm", lm)  # for the names of its weights; as a module its LM head would be trained
        self.head = head
        self.packs = choose_packing(self.backbone, padding_free)

    def forward(
        self,
        token_ids: Tensor,
        attention_mask: Tensor,
        response_mask: Tensor,
        *,
        wanted: frozenset[str] = frozenset({"value_outputs"}),
        **asked: object,
    ) -> dict[str, Tensor]:
        """The `wanted` outputs, [N, T, H] fp32 each, zero wherever response_mask is False.

        value_outputs           at t of the prefix BEFORE token t, read from the hidden state of t - 1
        value_outputs_after     at t of the prefix that ENDS with token t, read from its own hidden state
        """
        places = Places.of(response_mask)
        hidden = run_backbone(self.backbone, token_ids, attention_mask, packed=self.packs)
        return {name: places.spread(self.head(read_at(hidden, name, places))) for name in wanted & READ_AT.keys()}


READ_AT = {"value_outputs": Hidden.before, "value_outputs_after": Hidden.at}
"""A critic's outputs, and where their hidden states are read."""


def read_at(hidden: Hidden, output: str, places: Places) -> Tensor:
    """The hidden states from which an output is read: [R, d]."""
    return READ_AT[output](hidden, places).states

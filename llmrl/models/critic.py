"""Value networks: the values of prefixes, read from a language model's hidden states."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING

from llmrl.models.kinds import CONTEXT
from llmrl.models.loading import export
from llmrl.models.outputs import Hidden, Places, backbone_of, run_backbone, without_peft
from llmrl.models.padding_free import choose_packing

HEAD = "value_head.safetensors"
"""The file of a critic's head, in the folder of a critic whose architecture has no token classifier to be saved as."""


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


def export_critic(
    lm: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    weights: Iterable[tuple[str, Tensor]],
    head: Mapping[str, Tensor],
    *,
    context: str | None = None,
) -> None:
    """Write a critic as a plain Hugging Face folder: a token classifier, whose logits at a token are the outputs of the
    prefix that ends there.

    lm, weights: the model that the backbone is of, and its merged weights by name; head: its weight and bias. context:
    noted in the config. An architecture that has no token classifier with a linear head named score is saved as its
    language model, with the head in HEAD beside it.
    """
    state = dict(weights)
    config = copy.deepcopy(without_peft(lm).config)
    config.num_labels, config.problem_type, config.token_classification_bias = len(head["weight"]), "regression", True
    setattr(config, CONTEXT, context)
    classifier = _classifier(config)
    scored = state | {f"score.{name}": head[name].cpu() for name in ("weight", "bias")}
    if classifier is not None and (names := classifier.state_dict().keys()) <= scored.keys():
        export(classifier, tokenizer, folder, [(name, scored[name]) for name in names])
        return
    export(without_peft(lm), tokenizer, folder, state.items())
    save_file({name: head[name].contiguous().cpu() for name in ("weight", "bias")}, folder / HEAD)


def _classifier(config: Any) -> Any:
    """The architecture's token classifier without weights; None if it has none with a linear head named score."""
    if type(config) not in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        return None
    with torch.device("meta"):
        model = AutoModelForTokenClassification.from_config(config)
    return model if isinstance(getattr(model, "score", None), nn.Linear) else None


def saved_head(lm: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The weight and bias of the head that a folder holds beside the backbone of `lm`, which was loaded from there: of
    a critic, or of a reward model; empty for a language model."""
    if (score := getattr(without_peft(lm), "score", None)) is not None:
        bias = score.weight.new_zeros(len(score.weight)) if score.bias is None else score.bias.detach()
        return {"weight": score.weight.detach(), "bias": bias}
    return load_file(folder / HEAD) if (folder / HEAD).is_file() else {}


class Critic(nn.Module):
    """A value network with a backbone of its own: that of `lm`, a language model or a reward model, without its head.

    padding_free: as in a recipe's training. Raises RecipeError if it is True and packed rows would see each other.
    """

    def __init__(self, lm: nn.Module, head: ValueHead, *, padding_free: bool | None = None):
        super().__init__()
        self.backbone = backbone_of(lm)
        object.__setattr__(self, "lm", lm)  # for the names of its weights; as a module its own head would be trained
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

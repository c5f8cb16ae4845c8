"""A reward model: a backbone with a linear head, whose output at a completion's last token is the completion's
score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from llmrl.errors import RecipeError, first_line
from llmrl.models.chat_template import ending_at
from llmrl.models.gate import Gate
from llmrl.models.loading import DTYPES, attention_of, for_training, is_reward_model, scores_tokens, training_config
from llmrl.models.outputs import Places, backbone_of, run_backbone, without_peft
from llmrl.models.padding_free import choose_packing
from llmrl.recipe import Lora

OUTPUTS = frozenset({"scores"})
PADDING = ("<|pad|>", "<pad>", "[PAD]")
"""Names of padding tokens; the first is added to a tokenizer that has none of them."""


class ScoreHead(nn.Linear):
    """The `score` layer of transformers' classifiers, computed in fp32 whatever the weights' dtype."""

    @classmethod
    def of(cls, layer: nn.Linear) -> ScoreHead:
        """The layer's own weight, and its bias if it has one, in a layer of this class."""
        head = cls(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        head.weight, head.bias = layer.weight, layer.bias
        return head

    def forward(self, input: Tensor) -> Tensor:
        """[..., d] of any floating dtype to [..., H] fp32."""
        return functional.linear(input.float(), self.weight.float(), None if self.bias is None else self.bias.float())


class Scorer(nn.Module):
    """A sequence or token classifier, plain or with a LoRA adapter; its forward gives scores.

    gate: weighs the heads by the prompt, so that they are one score. padding_free: as in a recipe's training. Raises
    RecipeError if it is True and packed rows would see each other.
    """

    def __init__(self, lm: nn.Module, *, padding_free: bool | None = None, gate: Gate | None = None):
        super().__init__()
        self.lm = lm
        self.gate = gate
        self.packs = choose_packing(backbone_of(lm), padding_free)

    def activate(self) -> None:
        """A reward model's adapter is alone on its base, and always active."""

    @property
    def inner(self) -> Any:
        """The Hugging Face model itself, LoRA layers inside."""
        return without_peft(self.lm)

    def forward(
        self,
        token_ids: Tensor,
        attention_mask: Tensor,
        response_mask: Tensor,
        *,
        wanted: frozenset[str] = frozenset(),
        known: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """scores [N, T, H] fp32: at each response token the head's output of the hidden state AT that token, H = 1 with
        a gate.

            token_ids        P0 P1 A0 <eos>
            response_mask     0  0  1  1
            scores            0  0  a  b        b is the completion's score

        Zero wherever response_mask is False; with gradient.
        """
        self.check(wanted)
        places = Places.of(response_mask)
        hidden = run_backbone(backbone_of(self.lm), token_ids, attention_mask, packed=self.packs)
        scores = self.inner.score(hidden.at(places).states)
        if self.gate is not None:
            first = places.first
            weights = self.gate(hidden.before(first).states)
            of_row = weights.new_zeros(places.shape[0], weights.shape[1]).index_put((first.rows,), weights)
            scores = (scores * of_row[places.rows]).sum(dim=-1, keepdim=True)
        return {"scores": places.spread(scores)}

    def check(self, wanted: frozenset[str]) -> None:
        """Raises ValueError if `wanted` names an output that a reward model does not have."""
        if unknown := wanted - OUTPUTS:
            raise ValueError(f"wanted: a reward model has no output named {', '.join(sorted(unknown))}")

    def without_adapter(self) -> AbstractContextManager[Any]:
        """Inside this context the backbone is its frozen base; the head stays as it is trained."""
        if not isinstance(self.lm, PeftModel):
            raise ValueError("only a LoRA model has a base to fall back on")
        return self.lm.disable_adapter()


def load_reward_model(
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    dtype: Literal["fp32", "bf16"] = "fp32",
    lora: Lora | None = None,
    *,
    heads: int = 1,
    of_tokens: bool = False,
    seed: int = 0,
    gradient_checkpointing: bool = False,
) -> PreTrainedModel | PeftModel:
    """A sequence classifier for training, loaded as `load_language_model` does; its head computes in fp32.

    of_tokens: a token classifier, which scores places within a text. A language model's folder gets a new head without
    bias, drawn by `seed`, and a row of embeddings for the tokenizer's padding token where it has none (see
    `scoring_tokenizer`). Raises RecipeError if `folder` holds no model with a `score` head, another number of heads, or
    the other kind of classifier, or if `lora.target_modules` match nothing usable.
    """
    try:
        config = training_config(folder)
        found = config.num_labels if is_reward_model(config) else heads
        if found != heads:
            raise RecipeError(f"model.heads: {heads}, but the reward model in '{folder}' has {found}")
        if is_reward_model(config) and scores_tokens(config) != of_tokens:
            kinds = ("whole completions", "steps")
            raise RecipeError(
                f"model: the reward model in '{folder}' scores {kinds[not of_tokens]}, and the losses read scores of "
                f"{kinds[of_tokens]}"
            )
        if of_tokens:
            config.classifier_dropout = 0.0
            config.token_classification_bias = is_reward_model(config) and getattr(
                config, "token_classification_bias", True
            )
        config.num_labels = heads
        config.problem_type = "regression"  # vLLM gives the scores of such a model as they are, of others their sigmoid
        kind = AutoModelForTokenClassification if of_tokens else AutoModelForSequenceClassification
        with _quiet():
            loaded, told = kind.from_pretrained(
                str(folder),
                config=config,
                dtype=DTYPES[dtype],
                attn_implementation=attention_of(config),
                output_loading_info=True,
            )
    except (OSError, ValueError) as error:
        raise RecipeError(f"model: cannot load '{folder}' as a reward model: {first_line(error)}") from None
    model: Any = loaded
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        raise RecipeError(f"model: '{config.model_type}' models have no reward model with a linear head named score")
    model.score = ScoreHead.of(model.score)
    if "score.weight" in told["missing_keys"]:
        draw_head(model.score, seed)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id  # which the embeddings may have lacked before
    return for_training(model, lora, gradient_checkpointing=gradient_checkpointing)


@contextmanager
def _quiet() -> Iterator[None]:
    """In this context transformers does not report that the head is new and the LM head is left out."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@torch.no_grad()
def draw_head(head: nn.Linear, seed: int) -> None:
    """Draw a new head's weight from N(0, 1 / (hidden_size + 1)) by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(head.out_features, head.in_features, generator=generator)
    head.weight.copy_(drawn / (head.in_features + 1) ** 0.5)


def scoring_tokenizer(tokenizer: Any, stop_token_ids: Sequence[int]) -> Any:
    """The tokenizer, changed so that other programs score a text at the token at which it is scored here.

    Its padding token ends no text, since transformers scores the last token that is no padding; and its chat template
    writes nothing after the end of the last turn.
    """
    stops = {tokenizer.eos_token_id, *stop_token_ids}
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in stops:
        known = tokenizer.get_vocab()
        there = [name for name in PADDING if name in known and known[name] not in stops]
        tokenizer.add_special_tokens({"pad_token": (there or PADDING)[0]})
    if isinstance(tokenizer.chat_template, str):
        ends = [tokenizer.convert_ids_to_tokens(token) for token in stops]
        probe = [{"role": "user", "content": "0"}, {"role": "assistant", "content": "1"}]
        text = str(tokenizer.apply_chat_template(probe, tokenize=False))
        end = max(ends, key=text.rfind)
        tokenizer.chat_template = ending_at(tokenizer.chat_template, end if end in text else tokenizer.eos_token)
    return tokenizer

"""A language model as the trainer sees it: log-probabilities and entropies of the tokens it is asked about.

The vocabulary-wide logits of a micro-batch are the largest tensor of training, so they never exist at once:
the head runs over slices of the response tokens and is run again in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llmrl.errors import RecipeError
from llmrl.ops.logprobs import token_logprobs

LOGIT_BYTES_PER_SLICE = 64 * 2**20


class Policy(nn.Module):
    """A causal language model, plain or with a LoRA adapter; its forward gives log-probabilities.

    temperature: the one that was sampled at; the trainer's distribution is softmax(logits / temperature).
    padding_free: run the rows as one packed row with restarting positions instead of padding them.
    Raises RecipeError if the model does more to its logits than is known here.
    """

    def __init__(self, lm: nn.Module, *, temperature: float = 1.0, padding_free: bool = False):
        super().__init__()
        self.lm = lm
        self.temperature = temperature
        self.padding_free = padding_free
        # how many slices the head runs in, given how many this process needs: ZeRO-3 makes it equal on all ranks
        self.agree_on_slices: Callable[[int], int] = lambda count: count
        self._check_logits()

    @property
    def inner(self) -> Any:
        """The Hugging Face model itself, LoRA layers inside."""
        return self.lm.get_base_model() if isinstance(self.lm, PeftModel) else self.lm

    def forward(self, token_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each response token given all before it, and the entropy there: both [N, T] fp32.

            token_ids        P0 P1 A0 A1        the hidden state of P1 predicts A0, of A0 predicts A1
            response_mask     0  0  1  1
            logprobs          0  0  a  b        a = log p(A0 | P0 P1)

        Zero wherever response_mask is False; column 0 has no prefix and is never a response.
        """
        hidden = self._hidden_states(token_ids, attention_mask)
        rows, columns = response_mask[:, 1:].nonzero(as_tuple=True)
        logprobs, entropy = self._head(hidden[rows, columns], token_ids[rows, columns + 1])
        empty = torch.zeros(token_ids.shape, dtype=torch.float32, device=token_ids.device)
        place = (rows, columns + 1)
        return empty.index_put(place, logprobs), empty.index_put(place, entropy)

    def without_adapter(self) -> AbstractContextManager[Any]:
        """Inside this context the model is its frozen base: the reference of a LoRA run."""
        if not isinstance(self.lm, PeftModel):
            raise ValueError("only a LoRA policy has a base to fall back on")
        return self.lm.disable_adapter()

    def _hidden_states(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        positions = torch.arange(token_ids.shape[1], device=token_ids.device).expand_as(token_ids)
        if not self.padding_free:
            return self.inner.base_model(
                input_ids=token_ids, attention_mask=attention_mask.long(), position_ids=positions, use_cache=False
            ).last_hidden_state
        # token_ids A0 A1 A2 / B0 B1 .   ->   A0 A1 A2 B0 B1 with positions 0 1 2 0 1: attention stays inside a row
        packed = self.inner.base_model(
            input_ids=token_ids[attention_mask][None],
            position_ids=positions[attention_mask][None],
            attention_mask=None,
            use_cache=False,
        ).last_hidden_state[0]
        hidden = packed.new_zeros(*token_ids.shape, packed.shape[-1])
        return hidden.masked_scatter(attention_mask[..., None], packed)

    def _head(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        vocabulary = self.inner.config.get_text_config().vocab_size
        size = max(1, LOGIT_BYTES_PER_SLICE // (4 * vocabulary))

        def slice_logprobs(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            logits = self._scale(self.inner.get_output_embeddings()(hidden))
            return token_logprobs(logits, targets, temperature=self.temperature)

        # at least one slice, even of no tokens: every rank of a sharded engine has to run every layer
        count = self.agree_on_slices(max(1, math.ceil(len(hidden) / size)))
        parts = [
            checkpoint(slice_logprobs, h, t, use_reentrant=False) if count > 1 else slice_logprobs(h, t)
            for h, t in zip(hidden.tensor_split(count), targets.tensor_split(count), strict=True)
        ]
        logprobs, entropy = zip(*parts, strict=True)
        return torch.cat(logprobs), torch.cat(entropy)

    def _scale(self, logits: Tensor) -> Tensor:
        """What some architectures do to their logits after the head."""
        config = self.inner.config.get_text_config()
        if getattr(config, "logit_scale", None):  # Cohere
            logits = logits * config.logit_scale
        if getattr(config, "logits_scaling", None):  # Granite
            logits = logits / config.logits_scaling
        cap = getattr(config, "final_logit_softcapping", None)  # Gemma
        return torch.tanh(logits / cap) * cap if cap else logits

    @torch.no_grad()
    def _check_logits(self) -> None:
        """Compare our way from hidden states to logits with the model's own, on two tokens."""
        was_training = self.lm.training
        self.lm.eval()
        token_ids = torch.tensor([[0, 1]], device=next(self.lm.parameters()).device)
        own = self.inner(input_ids=token_ids, use_cache=False).logits
        ours = self._scale(self.inner.get_output_embeddings()(self._hidden_states(token_ids, token_ids >= 0)))
        self.lm.train(was_training)
        if not torch.allclose(ours.float(), own.float(), rtol=1e-2, atol=1e-5):
            kind = self.inner.config.model_type
            raise RecipeError(
                f"model: '{kind}' models change their logits after the head in a way that is not known here"
            )


Gather = Callable[[list[nn.Parameter]], AbstractContextManager[Any]]


def merged_weights(lm: nn.Module, gather: Gather = lambda parameters: nullcontext()) -> Iterator[tuple[str, Tensor]]:
    """The weights as (Hugging Face name, tensor), one at a time; LoRA adapters are added to what they adapt.

    gather: a context in which the given parameters are whole (ZeRO-3 keeps a slice of each on each rank).
    """
    adapted = {
        f"{name}.base_layer.weight": module for name, module in lm.named_modules() if isinstance(module, LoraLayer)
    }
    for name, parameter in lm.named_parameters():
        if "lora_" in name:
            continue
        layer: Any = adapted.get(name)
        with torch.no_grad(), gather([parameter] if layer is None else list(layer.parameters())):
            weight = parameter.detach()
            if layer is not None:
                total = weight.float() + sum(_delta(layer, adapter) for adapter in layer.active_adapters)
                weight = total.to(weight.dtype)
            yield name.removeprefix("base_model.model.").replace(".base_layer", ""), weight


def _delta(layer: Any, adapter: str) -> Tensor:
    """What a LoRA adapter adds to its layer's weight, in fp32 whatever the dtype of its factors."""
    if adapter in layer.lora_A:
        product = layer.lora_B[adapter].weight.float() @ layer.lora_A[adapter].weight.float()
        transposed = layer.fan_in_fan_out
    else:  # an embedding
        product = layer.lora_embedding_B[adapter].float() @ layer.lora_embedding_A[adapter].float()
        transposed = True
    return (product.T if transposed else product) * layer.scaling[adapter]

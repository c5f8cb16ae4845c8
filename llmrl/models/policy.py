"""A language model as the trainer sees it: log-probabilities and entropies of response tokens.

The logits of a micro-batch are the largest tensor of training, so they never exist at once: see `Head`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from llmrl.errors import RecipeError
from llmrl.models.critic import READ_AT, ValueHead, read_at
from llmrl.models.head import DIVERGENCES, LOG_PARTITION, TOP, Head, scaling_of
from llmrl.models.outputs import Hidden, Places, backbone_of, run_backbone, without_peft
from llmrl.models.padding_free import choose_packing
from llmrl.models.routing import require_routers, router_choices, router_drift
from llmrl.ops.shared.head_kl import Predictor
from llmrl.spans import span

_CHOICES = {"old_router_ids", "old_router_logprobs"}
_ROUTING = _CHOICES | {"router_drift"}
_OUTPUTS = (
    {"logprobs", "entropy", "top_logprobs", *READ_AT, "head_gradient_norms", "head_gradients"}
    | ({"hidden", LOG_PARTITION} | DIVERGENCES)
    | (TOP | _ROUTING)
)


class Policy(nn.Module):
    """A causal language model, plain or with a LoRA adapter; its forward gives log-probabilities.

    temperature: the sampler's; the trainer's distribution is softmax(logits / temperature).
    padding_free: as in a recipe's training: run rows as one without padding, in which shared beginnings stand once.
    value_head: a critic on this policy's hidden states; with detach_values its gradient stops at them (VL-DAC,
    arXiv 2508.04280). adapter: which of the adapters on one base is this policy's; default: the active one.
    Raises RecipeError if the model changes its logits in a way that `scaling_of` does not know, or if padding_free is
    True and packed rows would see each other.
    """

    def __init__(
        self,
        lm: nn.Module,
        *,
        temperature: float = 1.0,
        padding_free: bool | None = None,
        value_head: ValueHead | None = None,
        detach_values: bool = False,
        adapter: str | None = None,
    ):
        super().__init__()
        self.lm = lm
        self.temperature = temperature
        self.value_head = value_head
        self.detach_values = detach_values
        self.adapter = adapter or (str(lm.active_adapter) if isinstance(lm, PeftModel) else None)
        # for Head, set by engines that divide weights
        self.agree_on_slices: Callable[[int], int] = lambda count: count
        self._head_of_reference: Callable[[], nn.Module] | None = None
        self._check_logits()
        self.packs = choose_packing(backbone_of(lm), padding_free)

    def activate(self) -> None:
        """Make this policy's adapter the one that runs and is trained, where several share a base."""
        if isinstance(self.lm, PeftModel) and self.lm.active_adapter != self.adapter:
            self.lm.set_adapter(str(self.adapter))

    def compare_with(self, reference: Policy | None) -> None:
        """Let `ref_kl` be the divergence from this reference's hidden states; None: from those of LoRA's base."""
        of = self.inner if reference is None else reference.inner
        # a function, as a module would become a part of this one
        self._head_of_reference = lambda: _plain(of.get_output_embeddings())

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
        """Log-probability of each response token given all tokens before it, and the `wanted` outputs.

            token_ids        P0 P1 A0 A1        the hidden state of P1 predicts A0, of A0 predicts A1
            response_mask     0  0  1  1
            logprobs          0  0  a  b        a = log p(A0 | P0 P1)

        Zero wherever response_mask is False; column 0 has no prefix and is never a response. By name:

            logprobs [N, T]                              always; with gradient
            entropy, log_partition [N, T]                of token t's distribution, and its logits; with gradient
            old_top_ids, old_top_logprobs [N, T, K]      the K = min(8, V) most likely tokens, most likely first
            top_logprobs [N, T, K]                       of known["old_top_ids"]; with gradient
            old_router_ids, old_router_logprobs          [N, T, L, k], the experts chosen in each of L layers
            router_drift [N, T]                          from known["old_router_ids"], known["old_router_logprobs"]
            hidden [N, T, d]                             the hidden state that predicts token t
            ref_kl, policy_kl [N, T]                     KL(q || p), KL(p || q), q of known["ref_hidden"]; with gradient
            value_outputs [N, T, H]                      the value head's, of the prefix before t; with gradient
            value_outputs_after [N, T, H]                the same of the prefix that ends with t; with gradient
            head_gradient_norms [N]                      || d(sum_t logprobs) / dW ||_F, W the LM head's weight
            head_gradients [K, V, d]                     d(sum_nt c logprobs) / dW for known["coefficients"] [N, T, K]

        The outputs old_... are of the current weights too; the caller keeps them until they are old. The last two treat
        W as separate from a tied embedding (GVM, arXiv 2505.02391). Raises as `check` does.
        """
        self.check(wanted)
        self.activate()
        known = known or {}
        places = Places.of(response_mask)
        everywhere = run_backbone(
            backbone_of(self.lm), token_ids, attention_mask, packed=self.packs, router_logits=bool(wanted & _ROUTING)
        )
        found_by = everywhere.before(places)
        hidden, targets = found_by.states, places.at(token_ids)
        asked = [targets[:, None]] + ([places.at(known["old_top_ids"])] if "top_logprobs" in wanted else [])
        head, reference = self._head, self._reference(wanted, known, places)
        with span("head"):
            found = head(hidden, torch.cat(asked, dim=1), wanted, reference)
        layers = [layer.detach() for layer in found_by.router_logits]
        if wanted & _CHOICES:
            found["old_router_ids"], found["old_router_logprobs"] = router_choices(self.inner, layers)
        if "router_drift" in wanted:
            old = (places.at(known["old_router_ids"]), places.at(known["old_router_logprobs"]))
            found["router_drift"] = router_drift(layers, *old)
        found |= self._values(everywhere, places, wanted) | ({"hidden": hidden} if "hidden" in wanted else {})
        outputs = {name: places.spread(values) for name, values in found.items()}
        if "head_gradient_norms" in wanted:
            outputs["head_gradient_norms"] = head.weight_gradient_norms(hidden, targets, places.lengths)
        if "head_gradients" in wanted:
            outputs["head_gradients"] = head.weight_gradients(hidden, targets, places.at(known["coefficients"]))
        return outputs

    def _values(self, hidden: Hidden, places: Places, wanted: frozenset[str]) -> dict[str, Tensor]:
        """The value head's outputs."""
        found: dict[str, Tensor] = {}
        for name in READ_AT.keys() & wanted:
            assert self.value_head is not None
            states = read_at(hidden, name, places)
            found[name] = self.value_head(states.detach() if self.detach_values else states)
        return found

    def _reference(self, wanted: frozenset[str], known: Mapping[str, Tensor], places: Places) -> Predictor | None:
        if not wanted & DIVERGENCES or "ref_hidden" not in known:
            return None
        assert self._head_of_reference is not None, "compare_with comes first"
        head: Any = self._head_of_reference()
        bias = None if head.bias is None else head.bias.detach()
        return Predictor(places.at(known["ref_hidden"]), head.weight.detach(), bias)

    def check(self, wanted: frozenset[str]) -> None:
        """Raises RecipeError if `wanted` names routers' outputs and the model has no routers; ValueError if it names an
        unknown output, or a value head's without a value head."""
        if unknown := wanted - _OUTPUTS:
            raise ValueError(f"wanted: no output named {', '.join(sorted(unknown))}")
        if routing := wanted & _ROUTING:
            require_routers(self.inner, ", ".join(sorted(routing)))
        if wanted & READ_AT.keys() and self.value_head is None:
            raise ValueError("wanted: value_outputs, but this policy has no value head")

    def without_adapter(self) -> AbstractContextManager[Any]:
        """Inside this context the model is its frozen base: the reference of a LoRA run."""
        if not isinstance(self.lm, PeftModel):
            raise ValueError("only a LoRA policy has a base to fall back on")
        return self.lm.disable_adapter()

    @property
    def _head(self) -> Head:
        config = self.inner.config
        scaling = scaling_of(config, self.temperature)
        vocabulary = config.get_text_config().vocab_size
        return Head(self.inner.get_output_embeddings(), scaling, vocabulary, self.agree_on_slices)

    @torch.no_grad()
    def _check_logits(self) -> None:
        """Compare our way from hidden states to logits with the model's own, on two tokens."""
        was_training = self.lm.training
        self.lm.eval()
        token_ids = torch.tensor([[0, 1]], device=next(self.lm.parameters()).device)
        own = self.inner(input_ids=token_ids, use_cache=False).logits
        hidden = run_backbone(backbone_of(self.lm), token_ids, token_ids >= 0).states
        ours = self._head.logits(hidden) * self.temperature
        self.lm.train(was_training)
        if not torch.allclose(ours.float(), own[0].float(), rtol=1e-2, atol=1e-5):
            kind = self.inner.config.model_type
            raise RecipeError(
                f"model: '{kind}' models change their logits after the head in a way that is not known here"
            )


def _plain(head: Any) -> Any:
    """The linear layer below a LoRA layer."""
    return head.base_layer if hasattr(head, "base_layer") else head

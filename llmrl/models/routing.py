"""The choices and the drift of the routers of a mixture-of-experts model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmrl.errors import RecipeError


def require_routers(model: Any, wanted: str) -> None:
    """Raises RecipeError, naming the `wanted` outputs, if a Hugging Face model has no routers that can be read."""
    reports = "router_logits" in model.base_model.can_record_outputs
    if not reports or not _experts_per_token(model):
        kind = model.config.model_type
        raise RecipeError(f"{wanted} needs a mixture-of-experts model, '{kind}' has no routers that can be read")


def router_choices(model: Any, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The k experts with the largest router logits in each of L layers, and their log-probabilities.

        log_router = log softmax(router logits)

    layers: L tensors [R, E]. Returns [R, L, k] int64, the largest first, and [R, L, k] fp32.
    """
    best = [_log_router(layer).topk(_experts_per_token(model), dim=-1) for layer in layers]
    return torch.stack([b.indices for b in best], dim=1), torch.stack([b.values for b in best], dim=1)


def router_drift(layers: Sequence[Tensor], old_ids: Tensor, old_logprobs: Tensor) -> Tensor:
    """mean over layers and old choices of |log_router - old log_router|: [R] fp32 (RSPO, arXiv 2510.23027).

    layers: L tensors [R, E]; old_ids and old_logprobs: [R, L, k], as `router_choices` gave them.
    """
    now = [_log_router(layer).gather(-1, old_ids[:, index]) for index, layer in enumerate(layers)]
    return (torch.stack(now, dim=1) - old_logprobs).abs().mean(dim=(1, 2))


def _log_router(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.float(), dim=-1)


def _experts_per_token(model: Any) -> int:
    return getattr(model.config.get_text_config(), "num_experts_per_tok", None) or 0

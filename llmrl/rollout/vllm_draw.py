"""Drawing tokens in vLLM by seed and position, in place of a random generator for each request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmrl.ops.shared.draws import draw_tokens

SEED = "llmrl_seed"
"""The key of a request's extra_args that holds its seed."""


def draw_by_seed(worker: Any, *, shaped: Callable[..., Tensor], pack: Callable[..., Any]) -> bool:
    """Have a worker draw by each request's SEED; returns whether its model runner is one that this is possible for.

    A generator for each request costs a draw of the whole vocabulary, and keeps a CPU from prefilling in parts. The
    drawn token's log-probability comes with the draw, so none is computed of other tokens, unless a request of the
    step asks for the likeliest ones, and no rank.
    shaped: vLLM's function from (logits, top_k, top_p) to logits; pack: the type of its log-probabilities.
    """
    runner = worker.model_runner
    if not all(hasattr(runner, name) for name in ("sampler", "input_batch", "requests")):
        return False

    def draw(logits: Tensor, generators: Any, top_k: Tensor | None, top_p: Tensor | None) -> tuple[Tensor, Tensor]:
        requests = [runner.requests[name] for name in runner.input_batch.req_ids]
        seeds = [(request.sampling_params.extra_args or {}).get(SEED, 0) for request in requests]
        positions = [len(request.output_token_ids) for request in requests]
        both = torch.tensor([seeds, positions], device=logits.device)
        drawn_from = shaped(logits, top_k, top_p)
        tokens, logprobs = draw_tokens(drawn_from, *both)
        return tokens, drawn_from.log_softmax(-1) if runner.input_batch.max_num_logprobs else logprobs[:, None]

    def of_drawn(logprobs: Tensor, num_logprobs: int, token_ids: Tensor) -> Any:
        tokens = token_ids[:, None]
        if num_logprobs:
            values, others = logprobs.topk(num_logprobs)
            tokens, logprobs = torch.cat([tokens, others], 1), torch.cat([logprobs.gather(1, tokens), values], 1)
        return pack(tokens.int(), logprobs, torch.zeros_like(token_ids))

    runner.sampler.topk_topp_sampler.forward = draw
    runner.sampler.gather_logprobs = of_drawn
    return True


def likeliest(positions: Any, count: int) -> list[list[tuple[int, float]]]:
    """The likeliest tokens of each position; vLLM gives the sampled one besides, whatever its rank."""
    ranked = (sorted(at.items(), key=lambda item: -item[1].logprob)[:count] for at in positions)
    return [[(token, one.logprob) for token, one in tokens] for tokens in ranked]

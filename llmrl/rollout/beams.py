"""Beam search: the completion of highest probability among those that a limited search finds.

A policy that was trained on preferences holds its own values: with Q* the optimal soft action value of its implicit
reward, log pi(a | s) = (Q*(s, a) - V*(s)) / beta. A search for a likely completion of the policy is therefore a search
that values guide (From r to Q*, arXiv 2404.12358). Wider beams find likelier completions, whose lengths differ from
those of samples: watch the length beside the reward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Hypothesis:
    """A completion that has ended, with the sum of its tokens' log-probabilities.

    stopped: by its last token; else it ran out of tokens.
    """

    token_ids: list[int]
    logprob: float
    stopped: bool

    def score(self, exponent: float) -> float:
        """logprob / length ^ exponent."""
        return self.logprob / len(self.token_ids) ** exponent


@torch.no_grad()
def beam_search(
    model: Any,
    token_ids: Sequence[int],
    *,
    beams: int,
    max_tokens: int,
    ended: Callable[[list[int]], bool],
    length_exponent: float = 0.0,
) -> Hypothesis:
    """The best hypothesis that `beams` beams find; log-probabilities are those at temperature 1.

    ended: whether a completion's last token ends it. length_exponent: 0 compares sums of log-probabilities, 1 their
    means. The search ends when no live beam can become better than the best hypothesis. One beam is greedy decoding.
    """
    device = model.device
    unseen, cache = torch.tensor([list(token_ids)], device=device), None
    live: list[list[int]] = [[]]
    sums = torch.zeros(1, device=device)
    found: list[Hypothesis] = []
    for length in range(1, max_tokens + 1):
        output = model(input_ids=unseen, past_key_values=cache, use_cache=True, logits_to_keep=1)
        total = sums[:, None] + output.logits[:, -1].float().log_softmax(-1)
        best = total.flatten().topk(min(2 * beams, total.numel()))  # as many may end as go on
        parents, tokens = best.indices // total.shape[1], best.indices % total.shape[1]
        kept: list[int] = []
        rows = zip(parents.tolist(), tokens.tolist(), best.values.tolist(), strict=True)
        for place, (parent, token, logprob) in enumerate(rows):
            if len(kept) == beams:
                break
            extended = [*live[parent], token]
            stopped = ended(extended)
            if (stopped and place < beams) or length == max_tokens:
                found.append(Hypothesis(extended, logprob, stopped))
            elif not stopped:
                kept.append(place)
        limit = max((one.score(length_exponent) for one in found), default=-torch.inf)
        if not kept or float(best.values[kept[0]]) / max_tokens**length_exponent <= limit:
            break
        live = [[*live[int(parents[place])], int(tokens[place])] for place in kept]
        sums, cache = best.values[kept], _of_beams(output.past_key_values, parents[kept])
        unseen = tokens[kept][:, None]
    return max(found, key=lambda one: one.score(length_exponent))


def _of_beams(cache: Any, parents: Tensor) -> Any:
    """The keys and values of the beams that the kept ones extend."""
    cache.reorder_cache(parents)
    return cache

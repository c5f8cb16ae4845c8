"""Search over steps of an answer: partial answers are continued by sampling, scored by a model, and the best go on.

    whole answers as steps     best-of-n: the sample of the highest score, or one drawn by softmax(score / temperature)
    width 1                    planning: at each step the continuation of the highest score
    width w                    beam search over steps
    best_first                 A*: the partial answer with the largest f = g + weight * h goes on next, g its utility so
                               far, h its score

It samples with any sampler. What it finds is no sample of a known distribution, so it has no log-probabilities.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from llmrl.models.text import completes
from llmrl.recipe_rollout import BestFirst, Search
from llmrl.rollout.sampler import Completion, Sampler, SamplingParams, derive_seed

Score = Callable[[list[int], Sequence[list[int]]], Awaitable[list[float]]]
"""From a prompt and the beginnings of answers to it, or whole ones, to their scores."""
AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum, "min": min, "max": max, "last": lambda values: values[-1],
}  # fmt: skip


@dataclass(frozen=True)
class Partial:
    """The beginning of an answer, or a whole one.

    utilities: of each of its steps, the mean log-probability of the step's tokens. reason: None while it can go on.
    """

    token_ids: list[int]
    score: float = 0.0
    utilities: tuple[float, ...] = ()
    reason: Any = None


class SearchingSampler:
    """Answers by a search with another sampler: the greedy requests on held-out prompts, or those while training.

    training: which of the two; all other requests are the other sampler's. Weights that it is given are those of
    `own`, whose place it takes.
    """

    def __init__(self, own: Sampler, tokenizer: Any, search: Search, score: Score, *, training: bool):
        self._own, self._tokenizer, self._search = own, tokenizer, search
        self._score, self._training = score, training
        self.policy_version = own.policy_version
        self.takes_adapter = getattr(own, "takes_adapter", False)
        self.base = getattr(own, "base", own)

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        searches = not params.evaluating if self._training else params.evaluating and params.temperature == 0
        if not searches:
            return await self._own.sample(token_ids, params)
        found = await self._found(token_ids, params)
        return Completion(found.token_ids, [], found.reason, self.policy_version)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> None:
        self._own.load_weights(weights, policy_version)
        self.policy_version = self._own.policy_version

    def close(self) -> None:
        self._own.close()

    async def _found(self, prompt: list[int], params: SamplingParams) -> Partial:
        if self._search.best_first is not None:
            return await self._best_first(prompt, params, self._search.best_first)
        kept, step = [Partial([])], 0
        while True:
            live = [one for one in kept if one.reason is None]
            grown = [one for one in kept if one.reason] + await self._continued(prompt, live, params, step)
            if all(one.reason for one in grown):
                return self._chosen(grown, params)
            kept = sorted(_distinct(grown), key=lambda one: -one.score)[: self._search.width]
            if all(one.reason for one in kept):
                return self._chosen(kept, params)
            step += 1

    async def _best_first(self, prompt: list[int], params: SamplingParams, settings: BestFirst) -> Partial:
        """A* over steps; where `most` expansions find no whole answer, the best partial one is continued to its end."""
        aggregate = AGGREGATES[settings.aggregate]
        queue: list[tuple[float, int, Partial]] = [(0.0, 0, Partial([]))]
        order = 0
        for step in range(settings.most):
            best = heapq.heappop(queue)[2]
            if best.reason:
                return best
            for one in _distinct(await self._continued(prompt, [best], params, step)):
                order += 1
                heapq.heappush(queue, (-(aggregate(one.utilities) + settings.weight * one.score), order, one))
        best = next((one for _, _, one in sorted(queue) if one.reason), queue[0][2])
        step = settings.most
        while best.reason is None:
            [best] = await self._continued(prompt, [best], params, step, samples=1)
            step += 1
        return best

    async def _continued(
        self, prompt: list[int], partials: Sequence[Partial], params: SamplingParams, step: int, samples: int = 0
    ) -> list[Partial]:
        """Each of the partial answers, continued by a step in several ways, with scores."""
        search = self._search
        asked = [(one, number) for one in partials for number in range(samples or search.samples)]
        settings = replace(
            params,
            temperature=search.temperature,
            stop=(*params.stop, *filter(None, [search.delimiter])),
        )
        made = await asyncio.gather(
            *(
                self._own.sample(
                    prompt + one.token_ids,
                    replace(
                        settings,
                        max_tokens=params.max_tokens - len(one.token_ids),
                        seed=derive_seed(params.seed, "search", step, place),
                    ),
                )
                for place, (one, _) in enumerate(asked)
            )
        )
        grown = [self._grown(one, found, params) for (one, _), found in zip(asked, made, strict=True)]
        scores = await self._score(prompt, [one.token_ids for one in grown])
        return [replace(one, score=score) for one, score in zip(grown, scores, strict=True)]

    def _grown(self, partial: Partial, found: Completion, params: SamplingParams) -> Partial:
        token_ids = partial.token_ids + found.token_ids
        utility = math.fsum(found.logprobs) / max(1, len(found.logprobs))
        ended = token_ids[-1] in params.stop_token_ids or completes(self._tokenizer, token_ids, params.stop)
        full = len(token_ids) >= params.max_tokens
        reason = "stop" if ended else "length" if full else None
        return Partial(token_ids, utilities=(*partial.utilities, utility), reason=reason)

    def _chosen(self, answers: Sequence[Partial], params: SamplingParams) -> Partial:
        """The answer of the highest score, or one drawn by softmax(score / choice_temperature)."""
        best = max(one.score for one in answers)
        if self._search.choice_temperature is None:
            return next(one for one in answers if one.score == best)
        weights = [math.exp((one.score - best) / self._search.choice_temperature) for one in answers]
        return random.Random(derive_seed(params.seed, "choice")).choices(answers, weights)[0]


def _distinct(partials: Iterable[Partial]) -> list[Partial]:
    """The partial answers without repetitions, which would take the place of others."""
    return list({tuple(one.token_ids): one for one in partials}.values())

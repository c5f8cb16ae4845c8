"""The scores that guide a search, by the model that a recipe names."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from llmrl.errors import RecipeError
from llmrl.models.frozen_policy import frozen_policy
from llmrl.models.frozen_scorer import any_scorer
from llmrl.models.loading import is_reward_model
from llmrl.recipe_rollout import Search
from llmrl.rollout.search import Score


def load_score(search: Search, tokenizer: Any, key: str) -> Score:
    """The function that scores beginnings of answers; raises RecipeError for folders that do not fit.

    Of a reward model its score at the last token, the mean of its heads; of a language model the sum of the tokens'
    log ratios to the reference.
    """
    folder = Path(search.model).expanduser()
    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError):
        raise RecipeError(f"{key}.model: '{search.model}' is no folder of a model") from None
    if is_reward_model(config) == (search.reference is not None):
        said = (
            "is a reward model, which has no reference; leave it out"
            if search.reference
            else ("is a language model, whose log ratio to a reference would be the score; name the reference")
        )
        raise RecipeError(f"{key}.reference: '{search.model}' {said}")
    if search.reference is not None:
        models = [frozen_policy(folder), frozen_policy(Path(search.reference).expanduser())]
        for model in models:
            _check_tokens(model, tokenizer, key)
        return _of_log_ratios(*models)
    scorer = any_scorer(folder)
    _check_tokens(scorer, tokenizer, key)

    async def score(prompt: list[int], answers: Sequence[list[int]]) -> list[float]:
        rows = [([*prompt, *answer], len(prompt)) for answer in answers]
        found = await asyncio.to_thread(scorer.scores, rows)
        return [math.fsum(heads) / len(heads) for heads in found]

    return score


def _of_log_ratios(model: Any, reference: Any) -> Score:
    async def score(prompt: list[int], answers: Sequence[list[int]]) -> list[float]:
        rows = [([*prompt, *answer], [False] * len(prompt) + [True] * len(answer)) for answer in answers]
        own, other = await asyncio.to_thread(lambda: (model.logprobs(rows), reference.logprobs(rows)))
        return [math.fsum(one) - math.fsum(two) for one, two in zip(own, other, strict=True)]

    return score


def _check_tokens(model: Any, tokenizer: Any, key: str) -> None:
    known = model.tokenizer.get_vocab()
    if any(known.get(token) != place for token, place in tokenizer.get_vocab().items()):
        raise RecipeError(f"{key}.model: its tokens are other ones than the sampler's")

"""A role's sampler with the guides and searches of its recipe."""

from __future__ import annotations

from typing import Any

import torch

from llmrl.errors import RecipeError
from llmrl.other_policies import NO_GUIDE, guides_of
from llmrl.recipe import Recipe
from llmrl.rollout.guides import load_guide
from llmrl.rollout.sampler import Guiding, Sampler
from llmrl.rollout.search import SearchingSampler
from llmrl.rollout.search_scores import load_score


def guided(sampler: Sampler, recipe: Recipe, tokenizer: Any, device: torch.device) -> Sampler:
    """The sampler, or one in its place that its guides change and that searches; raises RecipeError if it cannot."""
    guides = guides_of(recipe)
    if guides and not isinstance(sampler, Guiding):
        raise RecipeError(f"{next(iter(guides))}: " + NO_GUIDE.format(engine=recipe.rollout.engine))
    if guides and isinstance(sampler, Guiding):
        loaded = {key: load_guide(guide, tokenizer, device, key=key) for key, guide in guides.items()}
        sampler = sampler.guided_by(loaded.get("rollout.guide"), loaded.get("evaluation.guide"))
    searches = {"evaluation.search": recipe.evaluation.search, "rollout.search": recipe.rollout.search}
    for key, search in searches.items():
        if search is not None:
            score = load_score(search, tokenizer, key)
            training = key == "rollout.search"
            sampler = SearchingSampler(sampler, tokenizer, search, score, training=training)
    return sampler

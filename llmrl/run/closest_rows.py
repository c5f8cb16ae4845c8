"""The choice of the training rows that are closest to a policy: those whose completions it finds likely.

A reward model that was trained on rows far from a policy says little of what that policy writes. Refitting it now and
then on the closest rows is inverse alignment (filtered reward fine-tuning, arXiv 2412.10529), here by likelihood:

    closeness of a row = mean over its completions of (log-likelihood / tokens) under the policy
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from llmrl.data.prompts import LoadedPrompts
from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError
from llmrl.evaluation.implicit_rewards import measured
from llmrl.models.loading import load_language_model, load_tokenizer
from llmrl.models.origins import locate
from llmrl.models.policy import Policy
from llmrl.ops.shared.rows import row_means
from llmrl.recipe import Recipe
from llmrl.recipe_rows import Closest
from llmrl.run.models import Origin
from llmrl.train.sources import compared_group
from llmrl.types import ACTOR, Group

KEY = "data.train.closest"


def keep_closest(
    prompts: LoadedPrompts, recipe: Recipe, origin: Origin, ranks: Ranks, device: torch.device
) -> tuple[LoadedPrompts, str]:
    """The prompts with the training rows that the recipe asks for, and a sentence about the choice, empty without one.

    Raises RecipeError for rows without written completions, and for a policy with other tokens.
    """
    settings = recipe.data.train.closest
    if settings is None:
        return prompts, ""
    found = _closeness(prompts, recipe, settings, origin, device) if ranks.is_first else []
    found = ranks.gather(found, f"measuring rows for {KEY}")[0]
    kept = closest(found, share=settings.share, replay=settings.replay, seed=recipe.seed)
    means = [sum(found[row] for row in rows) / len(rows) for rows in (kept, range(len(found)))]
    told = (
        f"{len(kept)} of {len(found)} rows are kept, the closest to {settings.model}: {means[0]:.3f} nats a token, "
        f"against {means[1]:.3f} of all"
    )
    return replace(prompts, train=[prompts.train[row] for row in kept]), told


def closest(closeness: Sequence[float], *, share: float, replay: float = 0.0, seed: int = 0) -> list[int]:
    """The places of the `share` of rows that are closest, and of some others by chance, in order.

    replay: how many others are drawn, as a share of the closest. Earlier rows win ties.
    """
    ranked = sorted(range(len(closeness)), key=lambda row: -closeness[row])
    count = math.ceil(share * len(ranked))
    others = ranked[count:]
    drawn = random.Random(seed).sample(others, min(len(others), round(replay * count)))
    return sorted([*ranked[:count], *drawn])


def _closeness(
    prompts: LoadedPrompts, recipe: Recipe, settings: Closest, origin: Origin, device: torch.device
) -> list[float]:
    """The closeness of each training row."""
    folder = locate(f"{KEY}.model", settings.model)
    if not load_tokenizer(folder).get_vocab().items() <= origin.tokenizer.get_vocab().items():
        raise RecipeError(f"{KEY}.model: '{settings.model}' has other tokens than the model of this stage")
    policy = Policy(load_language_model(folder, recipe.training.dtype)).to(device).eval()
    found: list[float] = []
    for groups, batch, logprobs in measured(policy, _groups(prompts)):
        means = row_means(logprobs, batch.response_mask)
        found += [float(means[batch.group_ids == one].mean()) for one in range(len(groups))]
    return found


def _groups(prompts: LoadedPrompts) -> list[Group]:
    """The training rows as groups of their written completions."""
    written = {name: [one] for name, one in prompts.demonstrations.items()} | prompts.comparisons
    if any(prompt.id not in written for prompt in prompts.train):
        raise RecipeError(f"{KEY}: reads how likely written completions are, but the rows have none")
    return [compared_group(prompt, written[prompt.id], ACTOR) for prompt in prompts.train]

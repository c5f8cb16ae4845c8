"""A single test whether the hub can be reached, in place of every download's retries."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from huggingface_hub import constants

from llmrl.recipe_file import Plan

SECONDS = 5.0


@contextmanager
def cache_only_if_unreachable(plan: Plan) -> Iterator[bool]:
    """Uses only the hub's cache if the hub does not answer; yields whether it does not."""
    before = constants.HF_HUB_OFFLINE
    unreachable = not before and _needs_hub(plan) and not _answers()
    constants.HF_HUB_OFFLINE = before or unreachable
    try:
        yield unreachable
    finally:
        constants.HF_HUB_OFFLINE = before


def _needs_hub(plan: Plan) -> bool:
    for recipe in plan.stages.values():
        names = [recipe.data.train.dataset, recipe.data.eval and recipe.data.eval.dataset]
        models = (*recipe.model.paths, recipe.critic.model)
        names += [path for path in models if path and not path.startswith(f"{recipe.run_dir}/")]
        if any(name and name[0] not in "./~" and not Path(name).is_dir() for name in names):
            return True
    return False


def _answers() -> bool:
    try:
        httpx.head(constants.ENDPOINT, timeout=SECONDS)
    except httpx.HTTPError:
        return False
    return True

"""The reward of trained reward models, which score completions in this process."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from llmrl.errors import RecipeError
from llmrl.marks import loads_models, takes_seconds
from llmrl.models.kinds import REWARD_MODEL, expect
from llmrl.types import Group


def load(*, path: str | list[str], head: int = 0, **settings: Any) -> None:
    """Load the models; raises RecipeError for a folder without a reward model, and for a head that one lacks."""
    for model in _models(path):
        if head >= model.heads:
            raise RecipeError(f"rewards.reward_model.head: {head}, but the model has heads 0 to {model.heads - 1}")


@takes_seconds(300.0)
@loads_models("path", load=load, look=partial(expect, kind=REWARD_MODEL))
async def reward_model(
    group: Group,
    *,
    path: str | list[str],
    head: NonNegativeInt = 0,
    combine: Literal["mean", "min"] = "mean",
    deviations: NonNegativeFloat = 0.0,
) -> list[float]:
    """The scores of a group's completions by the reward model in a folder, or by several together.

        reward = combine over models - deviations * standard deviation over models

    path: the folder, or a list of them. head: of a model with several, the one that is the reward. combine, deviations:
    how several models are made into one reward; the lowest, or a mean less the spread, is harder to exploit (arXiv
    2310.02743). A model of the policy's tokenizer scores the sampled tokens themselves.
    """
    members = [await asyncio.to_thread(_scores, model, group, head) for model in _models(path)]
    return [_combined(scores, combine, deviations) for scores in zip(*members, strict=True)]


def _scores(model: Any, group: Group, head: int) -> list[float]:
    rows = [
        model.row(
            one.prompt, [t for turn in one.turns for t in turn.token_ids], one.text if len(one.turns) == 1 else None
        )
        for one in group.trajectories
    ]
    return [scores[head] for scores in model.scores(rows)]


def _combined(scores: Sequence[float], combine: Literal["mean", "min"], deviations: float) -> float:
    middle = min(scores) if combine == "min" else statistics.fmean(scores)
    return middle - deviations * statistics.pstdev(scores)


def _models(path: str | list[str]) -> list[Any]:
    from llmrl.models.frozen_scorer import frozen_scorer  # late: most recipes load no reward model

    found = []
    for one in [path] if isinstance(path, str) else path:
        try:
            found.append(frozen_scorer(Path(one).expanduser().resolve(), REWARD_MODEL))
        except RecipeError as error:
            raise RecipeError(*(f"rewards.reward_model.path: {fault}" for fault in error.faults)) from None
    return found

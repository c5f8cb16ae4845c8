"""The opinion of a trained pairwise preference model, which reads both answers at once, in this process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llmrl.errors import RecipeError
from llmrl.marks import loads_models, takes_seconds
from llmrl.models.kinds import PREFERENCE_MODEL, expect
from llmrl.rewards.opinions import Opinion, Pair
from llmrl.types import Group, Trajectory

KEY = "rewards.win_rate.opinion.preference_model"


def load(*, path: str) -> None:
    """Load the model; raises RecipeError for a folder without one."""
    _model(path)


@takes_seconds(300.0)
@loads_models("path", load=load, look=partial(expect, kind=PREFERENCE_MODEL))
async def preference_model(group: Group, pairs: Sequence[Pair], *, path: str) -> list[Opinion]:
    """The opinion of a pairwise preference model, the same in both orders: P(a, b) = 1 - P(b, a).

        P(a is better) = sigmoid(score(prompt, a, b) - score(prompt, b, a))

    path: the folder of a model that learned from `answer_pairs`.
    """
    return await asyncio.to_thread(_opinions, _model(path), group, pairs)


def _opinions(model: Any, group: Group, pairs: Sequence[Pair]) -> list[Opinion]:
    alone = [_row(model, one) for one in group.trajectories]
    orders = [order for pair in pairs for order in ((pair.a, pair.b), (pair.b, pair.a))]
    rows = [([*alone[first][0], *alone[second][0][alone[second][1] :]], alone[first][1]) for first, second in orders]
    scores = [found[0] for found in model.scores(rows)]
    return [_opinion(*scores[place : place + 2]) for place in range(0, len(scores), 2)]


def _opinion(first: float, second: float) -> Opinion:
    """The opinion on a pair by its scores in both orders; a score above 0 says that the order's first is better."""
    consistent = float((first > 0) != (second > 0))
    return Opinion(0.5 * (1 + math.tanh(0.5 * (first - second))), {"order_consistency": consistent})


def _row(model: Any, trajectory: Trajectory) -> tuple[list[int], int]:
    """The tokens of the prompt and an answer, and the number of the prompt's."""
    tokens = [token for turn in trajectory.turns for token in turn.token_ids]
    return model.row(trajectory.prompt, tokens, trajectory.text if len(trajectory.turns) == 1 else None)


def _model(path: str) -> Any:
    from llmrl.models.frozen_scorer import frozen_scorer  # late: most recipes load no reward model

    try:
        return frozen_scorer(Path(path).expanduser().resolve(), PREFERENCE_MODEL)
    except RecipeError as error:
        raise RecipeError(*(f"{KEY}.path: {fault}" for fault in error.faults)) from None

"""Social welfare: answers are paid for what they are worth to the user and to the model together."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, NonNegativeFloat

from llmrl.marks import reads_rewards
from llmrl.types import Group, Score, Trajectory

Payoffs = Mapping[str, Mapping[str, tuple[float, float]]]
"""A game: the user's action -> the model's action -> (payoff of the user, payoff of the model)."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def welfare(user: float, model: float, *, user_share: float = 0.5) -> float:
    """The Cobb-Douglas welfare of two payoffs: user ** s * model ** (1 - s), 0 where one of them is negative.

    It is concave, so that neither side is sacrificed for the other; with s = 1/2 it is sqrt(user * model).
    """
    return max(user, 0.0) ** user_share * max(model, 0.0) ** (1 - user_share)


def best_actions(payoffs: Payoffs, *, situation: str | None = None, user_share: float = 0.5) -> set[str]:
    """The model's actions in the cells of highest welfare, of all rows or of the row that the situation names."""
    row = payoffs.get(situation) if situation is not None else None
    rows = list(payoffs.values()) if row is None else [row]
    worth = [(welfare(*cell, user_share=user_share), action) for row in rows for action, cell in row.items()]
    highest = max(value for value, _ in worth)
    return {action for value, action in worth if math.isclose(value, highest, abs_tol=1e-9)}


def equilibria(payoffs: Payoffs) -> set[tuple[str, str]]:
    """The pure Nash equilibria: cells (user's action, model's action) that neither side leaves to its advantage."""
    found = set()
    for situation, row in payoffs.items():
        for action, (user, model) in row.items():
            column = [other[action][0] for other in payoffs.values() if action in other]
            if user >= max(column) and model >= max(cell[1] for cell in row.values()):
                found.add((situation, action))
    return found


def payoffs_in(text: str) -> Payoffs | None:
    """The game that a text writes between <payoffs> and </payoffs>, as JSON of Payoffs; None without one."""
    written = re.findall(r"<payoffs>(.*?)</payoffs>", text, re.DOTALL)
    try:
        rows: Any = json.loads(written[-1]) if written else None
        found = {
            str(situation): {str(action): (float(user), float(model)) for action, (user, model) in row.items()}
            for situation, row in rows.items()
        }
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    cells = [number for row in found.values() for cell in row.values() for number in cell]
    return found if cells and all(found.values()) and all(map(math.isfinite, cells)) else None


def action_in(text: str, tag: str = "action") -> str | None:
    """The last text between the tags, None if there is none."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return found[-1].strip() if found else None


@reads_rewards("user", "model")
def social_welfare(
    group: Group,
    *,
    user: dict[str, float],
    model: dict[str, float],
    token_cost: NonNegativeFloat = 0.0,
    user_share: Share = 0.5,
    rationality: NonNegativeFloat = 0.0,
) -> list[Score]:
    """The welfare of user and model together: U ** s * M ** (1 - s), U and M being sums of other rewards' values.

        U = sum over `user` of weight * value        M = sum over `model` of weight * value - token_cost * tokens

    The other rewards usually have the weight 0 of their own. user_share: s. rationality: added where the completion's
    <action> is one of highest welfare in the game that it writes in <payoffs>, of the row that its <situation> names.
    The metric `equilibrium` says whether that action is one of a Nash equilibrium, which need not be of high welfare.
    Raises ValueError for a reward that did not score the row. Source: GTAlign, arXiv 2510.08872.
    """
    return [_welfare_of(one, user, model, token_cost, user_share, rationality) for one in group.trajectories]


def _welfare_of(
    one: Trajectory,
    user: Mapping[str, float],
    model: Mapping[str, float],
    token_cost: float,
    user_share: float,
    rationality: float,
) -> Score:
    if unknown := sorted({*user, *model} - one.scores.keys()):
        raise ValueError(f"no reward '{unknown[0]}' has scored this row; scored by: {', '.join(one.scores) or 'none'}")
    utility, profit = (
        math.fsum(weight * one.scores[name].value for name, weight in parts.items()) for parts in (user, model)
    )
    profit -= token_cost * one.completion_tokens
    payoffs, action = payoffs_in(one.text), action_in(one.text)
    best = (
        best_actions(payoffs, situation=action_in(one.text, "situation"), user_share=user_share) if payoffs else set()
    )
    rational = action in best
    metrics: dict[str, Any] = {"user": utility, "model": profit, "rational": float(rational)}
    if payoffs:
        metrics["equilibrium"] = float(any(action == one for _, one in equilibria(payoffs)))
    metrics["writes_payoffs"] = float(payoffs is not None)
    return Score(welfare(utility, profit, user_share=user_share) + rationality * rational, metrics=metrics)

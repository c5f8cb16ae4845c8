"""The reward of a trained process reward model, which scores the steps of completions in this process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from llmrl.data.steps import split_steps
from llmrl.errors import RecipeError
from llmrl.marks import loads_models, takes_seconds
from llmrl.models.kinds import STEP_REWARD_MODEL, expect
from llmrl.models.text import as_written, step_ends
from llmrl.types import Failure, Group, Score, Trajectory

KEY = "rewards.process_reward_model"
COMBINED = {
    "min": min,
    "product": math.prod,
    "mean": lambda chances: sum(chances) / len(chances),
    "last": lambda c: c[-1],
}
"""How the chances of an answer's steps become one number."""


def load(*, path: str, separator: str | None = None, of_turns: bool = False, **settings: Any) -> None:
    """Load the model; raises RecipeError for a folder without one, and for one whose separator is not known."""
    model = _model(path)
    if model.heads > 2:
        raise RecipeError(f"{KEY}.path: the model has {model.heads} classes of steps, expected one head or two classes")
    if separator is None and model.separator is None and not of_turns:
        raise RecipeError(
            f"{KEY}.separator: required, since '{path}' does not say what follows each step; name the text that its "
            f"training had there"
        )


@takes_seconds(300.0)
@loads_models("path", load=load, look=partial(expect, kind=STEP_REWARD_MODEL))
async def process_reward_model(
    group: Group,
    *,
    path: str,
    steps: Literal["min", "product", "mean", "last", "each"] = "min",
    delimiter: str | None = None,
    separator: str | None = None,
    of_turns: bool = False,
) -> list[Score | Failure]:
    """The chances that a completion's steps are right, by the process reward model in a folder.

    path: the folder of a token classifier with one head, or with two classes of which the second is right. steps: the
    completion's reward of the steps' chances; each: no reward of the completion, but each chance on the last token of
    its step, as turn_rewards, for a model of the policy's tokenizer. delimiter: the text that ends a step of a
    completion (default: the separator). separator: the text that ended each step in the model's training (default: what
    the folder says). of_turns: a step is a turn of the episode, by the policy's own tokens; with `each`, chances are
    rewards of the turns. A model of turn_values (`method: agent_prm`) learned such steps.
    """
    model = _model(path)
    if of_turns:
        return await asyncio.to_thread(_of_turns, model, group, steps)
    between = model.separator if separator is None else separator
    return await asyncio.to_thread(_scored, model, group, steps, delimiter or between, between)


def _scored(model: Any, group: Group, steps: str, delimiter: str, separator: str) -> list[Score | Failure]:
    found: list[Score | Failure | None] = [_unfit(model, one, steps) for one in group.trajectories]
    fit = [place for place, failure in enumerate(found) if failure is None]
    texts = [split_steps(group.trajectories[place].text, delimiter) for place in fit]
    rows = [
        model.step_row(group.trajectories[place].prompt, own, separator) for place, own in zip(fit, texts, strict=True)
    ]
    for place, own, scores in zip(fit, texts, model.scores_at(rows), strict=True):
        chances = [chance(one) for one in scores]
        found[place] = _score(model, group.trajectories[place], own, delimiter, steps, chances)
    return [one for one in found if one is not None]


def _of_turns(model: Any, group: Group, steps: str) -> list[Score | Failure]:
    """The scores of trajectories whose steps are the author's turns."""
    fit = [bool(one.own_turns) and model.reads(one) for one in group.trajectories]
    rows = [_turn_row(one) for one, fits in zip(group.trajectories, fit, strict=True) if fits]
    scored = iter(model.scores_at(rows))
    found: list[Score | Failure] = []
    for fits in fit:
        if not fits:
            found.append(Failure("process_reward_model", "invalid", "the model reads other tokens than the policy"))
            continue
        chances = tuple(chance(one) for one in next(scored))
        metrics = {"steps": float(len(chances)), "lowest": min(chances)}
        if steps == "each":
            found.append(Score(0.0, turn_values=chances, metrics=metrics))
        else:
            found.append(Score(COMBINED[steps](chances), metrics=metrics))
    return found


def _turn_row(trajectory: Trajectory) -> tuple[list[int], list[int]]:
    """All tokens of a trajectory, and the place of the last token of each of the author's turns."""
    tokens, ends = list(trajectory.prompt.token_ids), []
    for turn in trajectory.turns:
        tokens += turn.token_ids
        ends += [len(tokens) - 1] if turn.author == trajectory.author else []
    return tokens, ends


def chance(scores: Sequence[float]) -> float:
    """The chance that a step is right: the sigmoid of one head's score, or the softmax of the second of two."""
    margin = scores[0] if len(scores) == 1 else scores[1] - scores[0]
    return 0.5 * (1 + math.tanh(0.5 * margin))


def _score(
    model: Any, trajectory: Trajectory, texts: Sequence[str], delimiter: str, steps: str, chances: Sequence[float]
) -> Score:
    metrics = {"steps": float(len(chances)), "lowest": min(chances)}
    if steps != "each":
        return Score(COMBINED[steps](chances), metrics=metrics)
    tokens, on_tokens = _tokens(trajectory), {}
    decode = partial(as_written, model.tokenizer)
    for end, value in zip(step_ends(decode, tokens, trajectory.text, texts, delimiter), chances, strict=True):
        on_tokens[end] = on_tokens.get(end, 0.0) + value
    return Score(0.0, token_values=on_tokens, metrics=metrics)


def _unfit(model: Any, trajectory: Trajectory, steps: str) -> Failure | None:
    """Why a trajectory cannot be scored; None if it can."""
    fault = None
    if len(trajectory.turns) != 1:
        fault = "an episode of several turns has no text whose steps could be scored"
    elif steps == "each" and not model.speaks(trajectory.prompt, _tokens(trajectory), trajectory.text):
        fault = "the model reads other tokens than the policy, so its chances have no tokens to stand on"
    return Failure("process_reward_model", "invalid", fault) if fault else None


def _tokens(trajectory: Trajectory) -> list[int]:
    return [token for turn in trajectory.own_turns for token in turn.token_ids]


def _model(path: str) -> Any:
    from llmrl.models.frozen_scorer import frozen_scorer  # late: most recipes load no reward model

    try:
        return frozen_scorer(Path(path).expanduser().resolve(), STEP_REWARD_MODEL)
    except RecipeError as error:
        raise RecipeError(*(f"{KEY}.path: {fault}" for fault in error.faults)) from None

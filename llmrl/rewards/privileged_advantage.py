"""The reward of turns by a language model that reads more than the actor does, such as the answer."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import PositiveFloat

from llmrl.data.written import Exact
from llmrl.errors import RecipeError
from llmrl.marks import loads_models, takes_seconds
from llmrl.models.kinds import LANGUAGE_MODEL, expect
from llmrl.templates import RowTemplate, Template
from llmrl.types import Failure, Group, Score, Trajectory

KEY = "rewards.privileged_advantage"
NAME = "privileged_advantage"


def load(*, path: str, temperature: float = 1.0, **settings: Any) -> None:
    """Load the model; raises RecipeError for a folder without a language model."""
    _model(path, temperature)


@takes_seconds(300.0)
@loads_models("path", load=load, look=partial(expect, kind=LANGUAGE_MODEL))
async def privileged_advantage(
    group: Group,
    *,
    path: str,
    context: Template,
    temperature: PositiveFloat = 1.0,
    of_turns: bool = False,
) -> list[Score | Failure]:
    """The mean over a turn's tokens of how much more likely a model that was told more finds them than their sampler.

        A = 1/L sum_l [log p(a_l | context, state, a_<l) - log p_sampler(a_l | state, a_<l)]

    path: the folder of a model that learned trajectories behind such a text (`method: sweet_rl_critic`); context: the
    text that stands in front of the prompt, a template of the row's columns and {hidden}, what the environment hides,
    as in that training. The sampler's log-probabilities are those that it reported, so completions of others than the
    policy fail. temperature: of the model. of_turns: each turn's own A is its reward, and the trajectory has none;
    otherwise the mean is over all of the author's tokens. Source: SWEET-RL, arXiv 2503.15478.
    """
    return await asyncio.to_thread(_scored, _model(path, temperature), group, RowTemplate(context), of_turns)


def _scored(model: Any, group: Group, context: RowTemplate, of_turns: bool) -> list[Score | Failure]:
    from llmrl.models.frozen_scorer import reads  # late: most recipes load no model for their rewards

    fit = [_was_sampled(one) and reads(model.tokenizer, model.stops, one) for one in group.trajectories]
    rows = [_row(model.tokenizer, one, context) for one, fits in zip(group.trajectories, fit, strict=True) if fits]
    measured = iter(model.logprobs(rows))
    other = Failure(NAME, "invalid", "the policy did not sample it, or the model reads other tokens than the policy")
    return [
        _score(one, next(measured), of_turns) if fits else other
        for one, fits in zip(group.trajectories, fit, strict=True)
    ]


def _score(trajectory: Trajectory, found: list[float], of_turns: bool) -> Score:
    means, place, total = [], 0, 0.0
    for turn in trajectory.own_turns:
        own = found[place : place + len(turn.token_ids)]
        gained = sum(own) - sum(turn.rollout_logprobs)
        means.append(gained / len(own))
        place, total = place + len(own), total + gained
    return Score(0.0, turn_values=tuple(means)) if of_turns else Score(total / place)


def _was_sampled(trajectory: Trajectory) -> bool:
    """Whether the sampler said how likely each token of the author's was."""
    own = trajectory.own_turns
    return bool(own) and all(turn.token_ids and len(turn.rollout_logprobs) == len(turn.token_ids) for turn in own)


def _row(tokenizer: Any, trajectory: Trajectory, context: RowTemplate) -> tuple[list[int], list[bool]]:
    """The context and all tokens of the trajectory, and which of them are its author's."""
    known = {**trajectory.prompt.row} | ({} if trajectory.hidden is None else {"hidden": trajectory.hidden})
    tokens = Exact(trajectory.prompt.token_ids, context.fill(known)).tokens(tokenizer)
    mask = [False] * len(tokens)
    for turn in trajectory.turns:
        tokens += turn.token_ids
        mask += [turn.author == trajectory.author] * len(turn.token_ids)
    return tokens, mask


def _model(folder: str, temperature: float) -> Any:
    from llmrl.models.frozen_policy import frozen_policy  # late: most recipes load no model for their rewards

    try:
        return frozen_policy(Path(folder).expanduser().resolve(), temperature=temperature)
    except RecipeError as error:
        raise RecipeError(*(f"{KEY}.path: {fault}" for fault in error.faults)) from None

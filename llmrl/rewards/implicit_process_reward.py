"""Rewards of tokens or steps by a language model that learned outcomes by its log ratio to a reference."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import PositiveFloat

from llmrl.data.steps import split_steps
from llmrl.errors import RecipeError
from llmrl.marks import loads_models, takes_seconds
from llmrl.models.kinds import LANGUAGE_MODEL, expect
from llmrl.models.text import as_written, step_ends
from llmrl.types import Failure, Group, Score, Trajectory

KEY = "rewards.implicit_process_reward"


def load(*, path: str, reference: str, temperature: float = 1.0, **settings: Any) -> None:
    """Load both models; raises RecipeError for a folder without one, and for two of different tokens."""
    first, second = (_model(folder, setting, temperature) for setting, folder in _folders(path, reference))
    if first.tokenizer.get_vocab() != second.tokenizer.get_vocab():
        raise RecipeError(f"{KEY}.reference: '{reference}' has other tokens than '{path}'")


@takes_seconds(300.0)
@loads_models("path", "reference", load=load, look=partial(expect, kind=LANGUAGE_MODEL))
async def implicit_process_reward(
    group: Group,
    *,
    path: str,
    reference: str,
    beta: PositiveFloat = 0.05,
    delimiter: str | None = None,
    temperature: PositiveFloat = 1.0,
) -> list[Score | Failure]:
    """beta (log pi - log pi_ref) of each token of a completion, as rewards of the tokens, and none of the completion.

        r_t = beta (log pi(t) - log pi_ref(t))        with a delimiter: a step's sum, on its last token

    path: the folder of a model that learned by `outcome_bce`; reference: that of its reference. Both read the policy's
    tokens. beta, temperature: as in its training, there rollout.temperature. delimiter: the text that ends a step;
    without one each token has its own. Source: PRIME, arXiv 2502.01456, whose model learns along with the policy.
    """
    models = [_model(folder, setting, temperature) for setting, folder in _folders(path, reference)]
    return await asyncio.to_thread(_scored, models, group, beta, delimiter)


def _scored(models: list[Any], group: Group, beta: float, delimiter: str | None) -> list[Score | Failure]:
    from llmrl.models.frozen_scorer import speaks  # late: most recipes load no model for their rewards

    tokenizer, stops = models[0].tokenizer, models[0].stops
    fit = [speaks(tokenizer, stops, one.prompt, _own(one), _text(one)) for one in group.trajectories]
    rows = [_row(one) for one, fits in zip(group.trajectories, fit, strict=True) if fits]
    measured = zip(*(model.logprobs(rows) for model in models), strict=True)
    ratios = iter([[beta * (a - b) for a, b in zip(*pair, strict=True)] for pair in measured])
    other = Failure("implicit_process_reward", "invalid", "the models read other tokens than the policy")
    decode = partial(as_written, tokenizer)
    return [
        _score(one, next(ratios), decode, delimiter) if fits else other
        for one, fits in zip(group.trajectories, fit, strict=True)
    ]


def _score(trajectory: Trajectory, values: list[float], decode: Any, delimiter: str | None) -> Score:
    metrics = {"outcome_logit": sum(values)}
    if delimiter is None or len(trajectory.turns) != 1:
        return Score(0.0, token_values=dict(enumerate(values)), metrics=metrics)
    steps = split_steps(trajectory.text, delimiter)
    ends = step_ends(decode, _own(trajectory), trajectory.text, steps, delimiter)
    starts = [0, *(end + 1 for end in ends)]
    sums = {end: sum(values[start : end + 1]) for start, end in zip(starts, ends, strict=False)}
    return Score(0.0, token_values=sums, metrics=metrics | {"steps": float(len(sums))})


def _row(trajectory: Trajectory) -> tuple[list[int], list[bool]]:
    """All tokens of the trajectory, and which of them are its author's."""
    tokens = list(trajectory.prompt.token_ids)
    mask = [False] * len(tokens)
    for turn in trajectory.turns:
        tokens += turn.token_ids
        mask += [turn.author == trajectory.author] * len(turn.token_ids)
    return tokens, mask


def _own(trajectory: Trajectory) -> list[int]:
    return [token for turn in trajectory.own_turns for token in turn.token_ids]


def _text(trajectory: Trajectory) -> str | None:
    """The text of all of the author's tokens; None for several turns."""
    return trajectory.text if len(trajectory.turns) == 1 else None


def _folders(path: str, reference: str) -> list[tuple[str, str]]:
    return [("path", path), ("reference", reference)]


def _model(folder: str, setting: str, temperature: float) -> Any:
    from llmrl.models.frozen_policy import frozen_policy  # late: most recipes load no model for their rewards

    try:
        return frozen_policy(Path(folder).expanduser().resolve(), temperature=temperature)
    except RecipeError as error:
        raise RecipeError(*(f"{KEY}.{setting}: {fault}" for fault in error.faults)) from None

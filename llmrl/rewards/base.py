"""A recipe's reward functions, and the scoring of a group by all of them.

A reward function's positional parameters are its data, taken by name for one trajectory:

    completion         the decoded text of the author's last turn
    prompt             the prompt's text as the model got it
    row                the whole data row
    stop_reason        why the trajectory ended: one of llmrl.types.StopReason
    completion_tokens  how many tokens were sampled
    episode            the trajectories of every author
    <column>           any column of the data row, by its name
    group              alone: the function is called once per group and returns a list, one result each

Its keyword-only parameters are its settings. It returns a number, a bool (a verdict) or a Score. Plain
functions run in killable processes; `async def` functions run in the event loop. Both have a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat

from llmrl.errors import RecipeError, gathered, nearest
from llmrl.pieces import Piece, bind, resolve
from llmrl.rewards.cache import ResultCache, cache_key
from llmrl.rewards.catalogue import CATALOGUE as REWARDS
from llmrl.rewards.workers import Workers
from llmrl.types import Failure, Group, Score, Trajectory

KEY = "rewards"
BUILT_IN_DATA = frozenset({"completion", "prompt", "row", "stop_reason", "completion_tokens", "episode", "group"})


def _run_settings(
    *, weight: float = 1.0, deadline_seconds: PositiveFloat = 10.0, retries: NonNegativeInt = 1
) -> dict[str, Any]:
    """The settings that every reward has in addition to its function's own."""
    return {"weight": weight, "deadline_seconds": deadline_seconds, "retries": retries}


RUN_SETTINGS = tuple(inspect.signature(_run_settings).parameters)


@dataclass(frozen=True)
class Reward:
    """A reward function with its settings, and how it is run: `retries` more attempts after a failed one."""

    name: str
    piece: Piece
    weight: float = 1.0
    deadline_seconds: float = 10.0
    retries: int = 1

    @property
    def per_group(self) -> bool:
        return "group" in self.piece.data

    @property
    def module(self) -> str:
        """The module that a process must import to run the function."""
        return self.name.partition(":")[0] if ":" in self.name else self.piece.function.__module__

    @property
    def columns(self) -> tuple[str, ...]:
        """The data columns that the function takes by name."""
        return tuple(name for name in self.piece.data if name not in BUILT_IN_DATA)

    @property
    def grades(self) -> int | None:
        """The number of grades by the function's mark (llmrl.marks.gives_grades); None without the mark."""
        return getattr(self.piece.function, "grades", None)

    @classmethod
    def from_spec(cls, name: str, settings: Mapping[str, Any]) -> Reward:
        """The reward that a recipe's line names; raises RecipeError naming the key and the nearest valid one."""
        own = {key: value for key, value in settings.items() if key not in RUN_SETTINGS}
        run = {key: value for key, value in settings.items() if key in RUN_SETTINGS}
        _check_names(name, own)
        piece = resolve({name: own}, REWARDS, key=KEY, what="reward")
        common = bind(name, _run_settings, run, key=KEY).settings
        deadline = {"deadline_seconds": getattr(piece.function, "deadline_seconds", cls.deadline_seconds)}
        reward = cls(name, piece, **_run_settings(**{**deadline, **common}))
        if not math.isfinite(reward.weight):
            raise RecipeError(f"{KEY}.{name}.weight: {reward.weight} is not valid: expected a finite number")
        if reward.per_group and len(piece.data) > 1:
            raise RecipeError(f"{KEY}.{name}: takes group and {len(piece.data) - 1} more; group must be alone")
        return reward


def _check_names(name: str, own: Mapping[str, Any]) -> None:
    """Raises RecipeError for a misspelt common setting, and for a setting with the name of a common one."""
    try:
        function = pkgutil.resolve_name(name) if ":" in name else REWARDS[name]
        parameters = inspect.signature(function).parameters.values()
    except Exception:  # a user's module may raise anything; resolve says what is wrong
        return
    valid = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    faults = [
        f"{KEY}.{name}: its setting '{clash}' has the name of one that every reward has"
        for clash in sorted(valid & set(RUN_SETTINGS))
    ]
    for setting, value in own.items():
        guess = nearest(setting, valid | set(RUN_SETTINGS))
        if setting not in valid and guess in RUN_SETTINGS:
            faults.append(f"{KEY}.{name}: no setting '{setting}' (value {value!r}); did you mean '{guess}'?")
    if faults:
        raise RecipeError(*faults)


class Rewards:
    """The rewards that a recipe names. A trajectory's reward is the weighted sum of their values."""

    def __init__(self, rewards: Sequence[Reward], *, workers: Workers):
        self.rewards = tuple(rewards)
        self.cache: ResultCache[list[Score | Failure]] = ResultCache()
        self._workers = workers
        workers.warm(reward.module for reward in rewards)

    @classmethod
    def from_specs(cls, specs: Mapping[str, Mapping[str, Any] | None], *, workers: Workers) -> Rewards:
        """The set from a recipe's `rewards:` mapping of names to settings.

        A name is a built-in one or `module:function`. Every reward takes its own settings and `weight` (1.0),
        `deadline_seconds` (10, unless the function is marked otherwise) and `retries` (1). Raises RecipeError with all
        faults at once.
        """
        rewards: list[Reward] = []
        faults: list[str] = []
        for name, settings in specs.items():
            with gathered(faults):
                rewards.append(Reward.from_spec(name, settings or {}))
        if faults:
            raise RecipeError(*faults)
        return cls(rewards, workers=workers)

    @property
    def weights(self) -> dict[str, float]:
        return {reward.name: reward.weight for reward in self.rewards}

    def required_columns(self) -> set[str]:
        """The data columns that the functions take by name."""
        return {column for reward in self.rewards for column in reward.columns}

    def check_columns(self, columns: Iterable[str]) -> None:
        """Raises RecipeError if a reward takes a column that the data lacks."""
        columns = list(columns)
        faults = []
        for reward in self.rewards:
            for column in reward.columns:
                if column in columns:
                    continue
                guess = nearest(column, [*columns, *BUILT_IN_DATA])
                hint = f"did you mean '{guess}'?" if guess else f"columns: {', '.join(columns) or 'none'}"
                faults.append(f"{KEY}.{reward.name}: the data has no column '{column}'; {hint}")
        if faults:
            raise RecipeError(*faults)

    async def score(self, group: Group) -> None:
        """Fill in every trajectory's scores and reward, all rewards and trajectories concurrently.

        reward = sum over rewards of weight * value; turn_rewards are the same sums of turn values. A trajectory on
        which a reward failed, retries included, gets `failure` and the reward nan; one that had failed before stays as
        it was. Raises RecipeError for a column that the row lacks.
        """
        self.check_columns(group.prompt.row)
        live = replace(group, trajectories=[one for one in group.trajectories if one.failure is None])
        if not live.trajectories:
            return
        calls = [(reward, part) for reward in self.rewards for part in _parts(reward, live)]
        for (reward, part), results in zip(
            calls, await asyncio.gather(*(self._with_retries(*call) for call in calls)), strict=True
        ):
            for trajectory, result in zip(part.trajectories, results, strict=True):
                if isinstance(result, Score):
                    trajectory.scores[reward.name] = result
                else:
                    trajectory.failure = trajectory.failure or result
        for trajectory in live.trajectories:
            if trajectory.failure:
                trajectory.reward = math.nan
                continue
            scored = [(reward.weight, trajectory.scores[reward.name]) for reward in self.rewards]
            trajectory.components = {
                reward.name: weight * score.value for reward, (weight, score) in zip(self.rewards, scored, strict=True)
            }
            trajectory.reward = math.fsum(trajectory.components.values())
            by_turn = [[weight * value for value in score.turn_values] for weight, score in scored]
            trajectory.turn_rewards = [math.fsum(turn) for turn in zip_longest(*by_turn, fillvalue=0.0)]

    async def _with_retries(self, reward: Reward, part: Group) -> list[Score | Failure]:
        results = await self._attempt(reward, part)
        for _ in range(reward.retries):
            if not any(isinstance(result, Failure) for result in results):
                break
            results = await self._attempt(reward, part)
        return results

    async def _attempt(self, reward: Reward, part: Group) -> list[Score | Failure]:
        """The part's scores; a function marked by `cached_by` shares them with equal calls, also concurrent ones."""
        available = {"group": part} if reward.per_group else _data(part.trajectories[0])
        args = [available[name] for name in reward.piece.data]
        key = cache_key(reward.piece.function, args, reward.piece.settings)
        if key is None:
            return await self._scored(reward, part, args)
        turns = tuple(len(trajectory.own_turns) for trajectory in part.trajectories)  # the lengths of turn_values
        return await self.cache.get(
            (reward.name, turns, key),
            lambda: self._scored(reward, part, args),
            keep=lambda results: not any(isinstance(result, Failure) for result in results),
        )

    async def _scored(self, reward: Reward, part: Group, args: list[Any]) -> list[Score | Failure]:
        try:
            result = await self._call(reward, args)
        except TimeoutError as error:
            failure = Failure(reward.name, "timeout", str(error) or "the function raised TimeoutError")
        except ValueError as error:
            failure = Failure(reward.name, "invalid", str(error))
        except Exception as error:
            failure = Failure(reward.name, "crash", str(error) or type(error).__name__)
        else:
            if not reward.per_group:
                return [_as_score(reward, result, part.trajectories[0])]
            if isinstance(result, list | tuple) and len(result) == len(part.trajectories):
                pairs = zip(result, part.trajectories, strict=True)
                return [_as_score(reward, one, trajectory) for one, trajectory in pairs]
            expected = f"a list of {len(part.trajectories)}, one result per trajectory"
            failure = Failure(reward.name, "invalid", f"returned {_shown(result)}, expected {expected}")
        return [failure] * len(part.trajectories)

    async def _call(self, reward: Reward, args: list[Any]) -> Any:
        function, settings = reward.piece.function, reward.piece.settings
        if not inspect.iscoroutinefunction(function):
            return await self._workers.run(function, args, settings, reward.deadline_seconds)
        deadline = asyncio.timeout(reward.deadline_seconds)
        try:
            async with deadline:
                return await function(*args, **settings)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise TimeoutError(f"ran past its deadline of {reward.deadline_seconds:g} seconds") from None


def _parts(reward: Reward, group: Group) -> list[Group]:
    """The arguments of each call: the group, or each of its trajectories alone."""
    return [group] if reward.per_group else [replace(group, trajectories=[one]) for one in group.trajectories]


def _data(trajectory: Trajectory) -> dict[str, Any]:
    row = dict(trajectory.prompt.row)
    return row | {
        "completion": trajectory.text,
        "prompt": trajectory.prompt.text,
        "row": row,
        "stop_reason": trajectory.stop_reason,
        "completion_tokens": trajectory.completion_tokens,
        "episode": trajectory.episode,
    }


def _as_score(reward: Reward, result: Any, trajectory: Trajectory) -> Score | Failure:
    """A Score, or an "invalid" Failure for anything that is not a finite number, a bool or a Score."""
    source = reward.name
    if isinstance(result, bool):
        result = Score(float(result), result)
    elif not isinstance(result, Score) and hasattr(result, "__float__"):  # numpy's and torch's scalars too
        with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
            result = Score(float(result))
    if not isinstance(result, Score):
        return Failure(source, "invalid", f"returned {_shown(result)}, expected a number, a bool or a Score")
    try:
        finite = all(math.isfinite(value) for value in (result.value, *result.turn_values))
    except TypeError:
        finite = False
    if not finite:
        return Failure(source, "invalid", f"returned {_shown(result)}, expected finite numbers")
    count = math.inf if reward.grades is None else reward.grades
    if result.grade is not None and not (isinstance(result.grade, int) and 0 <= result.grade < count):
        expected = "an int of at least 0" + (f" and below {count}" if reward.grades else "")
        return Failure(source, "invalid", f"returned the grade {_shown(result.grade)}, expected {expected}")
    turns = len(trajectory.own_turns)
    if result.turn_values and turns and len(result.turn_values) != turns:
        message = f"returned {len(result.turn_values)} turn values, expected {turns}, one per actor turn"
        return Failure(source, "invalid", message)
    return result


def _shown(value: Any) -> str:
    return repr(value)[:200]

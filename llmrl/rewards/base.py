"""A recipe's reward functions, and the scoring of a group by all of them.

A reward function's positional parameters are its data, taken by name for one trajectory:

    completion         the decoded text of the author's last turn
    prompt             the prompt's text as the model got it
    row                the whole data row
    stop_reason        why the trajectory ended: one of llmrl.types.StopReason
    completion_tokens  how many tokens were sampled
    completion_ids     these tokens, a list of integers
    episode            the trajectories of every author
    correct            the verdict of the other rewards: True, False, or None if none of them gives one
    <column>           any column of the data row, by its name
    group              alone: the function is called once per group and returns a list, one result each

Its keyword-only parameters are its settings. It returns a number, a bool (a verdict), a Score, or None for a row of
another task, whose sum it then leaves alone. Plain functions run in killable processes; `async def` functions run in
the event loop. Both have a deadline. Functions that take `correct` or `group` are called after the others, on
trajectories that these scored.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat

from llmrl.columns import NoColumnError, column
from llmrl.errors import RecipeError, gathered, nearest
from llmrl.pieces import Piece, bind, resolve
from llmrl.rewards.cache import ResultCache, cache_key
from llmrl.rewards.catalogue import CATALOGUE as REWARDS
from llmrl.rewards.catalogue import VERIFIERS
from llmrl.rewards.results import NO_REWARD, as_score, of_each, shown
from llmrl.rewards.shaping import group_length
from llmrl.rewards.votes import answers_of
from llmrl.rewards.workers import Workers
from llmrl.types import Failure, Group, Score, Trajectory

KEY = "rewards"
NO_VERDICTS = "reads the verdict of another reward, and none gives any; add a verifier, such as math_verifier: {}"
BUILT_IN_DATA = frozenset(
    {"completion", "prompt", "row", "stop_reason", "completion_tokens", "completion_ids"}
    | {"episode", "correct", "group"}
)


def _run_settings(
    *,
    weight: float = 1.0,
    deadline_seconds: PositiveFloat = 10.0,
    retries: NonNegativeInt = 1,
    rows: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The settings that every reward has in addition to its function's own."""
    return {"weight": weight, "deadline_seconds": deadline_seconds, "retries": retries, "rows": rows or {}}


RUN_SETTINGS = tuple(inspect.signature(_run_settings).parameters)


@dataclass(frozen=True)
class Reward:
    """A reward function with its settings, and how it is run: `retries` more attempts after a failed one.

    rows: by column, or path into one, the value or the list of values of the rows that it scores; default: all rows.
    """

    name: str
    piece: Piece
    weight: float = 1.0
    deadline_seconds: float = 10.0
    retries: int = 1
    rows: Mapping[str, Any] = field(default_factory=dict)

    @property
    def per_group(self) -> bool:
        return "group" in self.piece.data

    @property
    def reads_verdicts(self) -> bool:
        """Whether the function may read what other rewards say."""
        return self.per_group or "correct" in self.piece.data

    @property
    def needs_verdicts(self) -> bool:
        """Whether the function is of no use without another reward's verdict."""
        return "correct" in self.piece.data or self.piece.function is group_length

    @property
    def may_give_verdicts(self) -> bool:
        """Whether other rewards may read its verdicts: of a function that is not built in, only a call can tell."""
        without = set(REWARDS.values()).difference(VERIFIERS)
        return not self.reads_verdicts and self.piece.function not in without

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

    def scores(self, row: Mapping[str, Any]) -> bool:
        """Whether the row is one of those that `rows` names."""
        return all(value_at(row, name) in _listed(values) for name, values in self.rows.items())

    def faults(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """A sentence for each column that the function takes and that some row it scores lacks."""
        scored, faults = [row for row in rows if self.scores(row)], []
        for name in self.columns:
            lacking = [row for row in scored if name not in row]
            if not lacking:
                continue
            columns = list(lacking[0])
            guess = nearest(name, [*columns, *BUILT_IN_DATA])
            hint = f"did you mean '{guess}'?" if guess else f"columns: {', '.join(columns) or 'none'}"
            whole = len(lacking) == len(scored)
            where = "the data has" if whole else f"{len(lacking)} of the {len(scored)} rows that it scores have"
            limit = "" if whole else f"; to score the others alone, set {KEY}.{self.name}.rows"
            faults.append(f"{KEY}.{self.name}: {where} no column '{name}'; {hint}{limit}")
        return faults

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


def verdict_faults(rewards: Sequence[Reward]) -> list[str]:
    """A sentence for each reward that needs verdicts, if no other can give any."""
    if any(reward.may_give_verdicts for reward in rewards):
        return []
    return [f"{KEY}.{reward.name}: {NO_VERDICTS}" for reward in rewards if reward.needs_verdicts]


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """The value of the row's column, or of the path into one; None if there is none."""
    try:
        return column(row, name)
    except NoColumnError:
        return None


def _listed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else [values]


class Rewards:
    """The rewards that a recipe names. A trajectory's reward is the weighted sum of their values."""

    def __init__(self, rewards: Sequence[Reward], *, workers: Workers):
        self.rewards = tuple(rewards)
        self.cache: ResultCache[list[Score | Failure | None]] = ResultCache()
        self._workers = workers
        workers.warm(reward.module for reward in rewards)

    @classmethod
    def from_specs(cls, specs: Mapping[str, Mapping[str, Any] | None], *, workers: Workers) -> Rewards:
        """The set from a recipe's `rewards:` mapping of names to settings.

        A name is a built-in one or `module:function`. Every reward takes its own settings and `weight` (1.0),
        `deadline_seconds` (10, unless the function is marked otherwise), `retries` (1) and `rows` (all of them). Raises
        RecipeError with all faults at once.
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

    @property
    def row_columns(self) -> list[str]:
        """The columns by which the rewards choose their rows."""
        return list(dict.fromkeys(name for reward in self.rewards for name in reward.rows))

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises RecipeError for columns or needed verdicts that rows lack, and for rows that no reward scores."""
        faults = [fault for reward in self.rewards for fault in reward.faults(rows)]
        unscored = [row for row in rows if not any(reward.scores(row) for reward in self.rewards)]
        if unscored:
            found = f"{len(unscored)} of {len(rows)} rows are scored by none"
            faults.append(f"{KEY}: {found}, the first with {self._chosen_by(unscored[0])}")
        giving = [reward for reward in self.rewards if reward.may_give_verdicts]
        for reward in self.rewards if giving else ():  # without any, the recipe is refused before there are rows
            scored = [row for row in rows if reward.needs_verdicts and reward.scores(row)]
            lacking = [row for row in scored if not any(one.scores(row) for one in giving)]
            if lacking:
                found = f"reads verdicts, and no other reward gives one in {len(lacking)} of its {len(scored)} rows"
                faults.append(f"{KEY}.{reward.name}: {found}, the first with {self._chosen_by(lacking[0])}")
        if faults:
            raise RecipeError(*faults)

    def _chosen_by(self, row: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {value_at(row, name)!r}" for name in self.row_columns)

    def answers(self, groups: Sequence[Group]) -> list[list[int | None]] | None:
        """Of each group's trajectories the numbers of their answers, equal where a verifier takes two as the same.

        None for a trajectory without an answer. A group is read by the first reward that scores its row and is marked
        by `reads_answers`; None in place of the list if no reward has the mark.
        """
        if not any(reward.piece.mark("reading") for reward in self.rewards):
            return None
        return asyncio.run(self._answers(groups))

    async def _answers(self, groups: Sequence[Group]) -> list[list[int | None]]:
        reading = [reward for reward in self.rewards if reward.piece.mark("reading")]
        readers = [next((one for one in reading if one.scores(group.prompt.row)), reading[0]) for group in groups]
        pairs = zip(readers, groups, strict=True)
        return await asyncio.gather(
            *(answers_of(r.piece, group.trajectories, self._workers, r.deadline_seconds) for r, group in pairs)
        )

    async def score(self, group: Group) -> None:
        """Fill in every trajectory's scores and reward, concurrently; rewards that read verdicts come last.

        reward = sum over rewards of weight * value; turn_rewards are the same sums of turn values. A reward that is not
        of this row, or returns None, has no score and adds nothing. A trajectory on which a reward failed, retries
        included, or that no reward scored, gets `failure` and the reward nan; one that had failed before stays as it
        was. Raises RecipeError for a column that the row lacks.
        """
        faults = [fault for reward in self.rewards for fault in reward.faults([group.prompt.row])]
        if faults:
            raise RecipeError(*faults)
        scoring = [reward for reward in self.rewards if reward.scores(group.prompt.row)]
        fresh = [trajectory for trajectory in group.trajectories if trajectory.failure is None]
        for later in (False, True):
            live = replace(group, trajectories=[one for one in fresh if one.failure is None])
            if live.trajectories:
                await self._score([reward for reward in scoring if reward.reads_verdicts is later], live)
        for trajectory in fresh:
            self._add_up(trajectory)

    async def _score(self, rewards: Sequence[Reward], live: Group) -> None:
        calls = [(reward, part) for reward in rewards for part in _parts(reward, live)]
        for (reward, part), results in zip(
            calls, await asyncio.gather(*(self._with_retries(*call) for call in calls)), strict=True
        ):
            for trajectory, result in zip(part.trajectories, results, strict=True):
                if isinstance(result, Score):
                    trajectory.scores[reward.name] = result
                else:
                    trajectory.failure = trajectory.failure or result

    def _add_up(self, trajectory: Trajectory) -> None:
        """Fill in the sums of the trajectory's scores; a reward without one has the component 0."""
        if not trajectory.scores:
            trajectory.failure = trajectory.failure or NO_REWARD
        if trajectory.failure:
            trajectory.reward = math.nan
            return
        weights, scores = self.weights, trajectory.scores
        trajectory.components = {
            name: weight * scores[name].value if name in scores else 0.0 for name, weight in weights.items()
        }
        trajectory.reward = math.fsum(trajectory.components.values())
        by_turn = [[weights[name] * value for value in score.turn_values] for name, score in scores.items()]
        trajectory.turn_rewards = [math.fsum(turn) for turn in zip_longest(*by_turn, fillvalue=0.0)]

    async def _with_retries(self, reward: Reward, part: Group) -> list[Score | Failure | None]:
        results = await self._attempt(reward, part)
        for _ in range(reward.retries):
            if not any(isinstance(result, Failure) for result in results):
                break
            results = await self._attempt(reward, part)
        return results

    async def _attempt(self, reward: Reward, part: Group) -> list[Score | Failure | None]:
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

    async def _scored(self, reward: Reward, part: Group, args: list[Any]) -> list[Score | Failure | None]:
        try:
            result = await self._call(reward, args)
        except TimeoutError as error:
            failure = Failure(reward.name, "timeout", str(error) or "the function raised TimeoutError")
        except ValueError as error:
            failure = Failure(reward.name, "invalid", str(error))
        except Exception as error:
            failure = Failure(reward.name, "crash", str(error) or type(error).__name__)
        else:
            results = of_each(result, len(part.trajectories)) if reward.per_group else [result]
            if results is not None:
                pairs = zip(results, part.trajectories, strict=True)
                return [
                    as_score(reward.name, one, turns=len(trajectory.own_turns), grades=reward.grades)
                    for one, trajectory in pairs
                ]
            expected = f"a list of {len(part.trajectories)}, one result per trajectory"
            failure = Failure(reward.name, "invalid", f"returned {shown(result)}, expected {expected}")
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
        "completion_ids": [token for turn in trajectory.own_turns for token in turn.token_ids],
        "episode": trajectory.episode,
        "correct": trajectory.correct,
    }

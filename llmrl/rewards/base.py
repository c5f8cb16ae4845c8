"""A recipe's reward functions together, and the scoring of a group by all of them.

A reward function's positional parameters are its data, taken by name for one trajectory:

    completion         the text of the author's last turn
    prompt             the prompt's text as the model got it
    row                the whole data row
    stop_reason        why the trajectory ended: one of llmrl.types.StopReason
    completion_tokens  how many tokens were sampled
    completion_ids     these tokens, a list of integers
    episode            the trajectories of every author
    earlier            the parts of the last texts of the trajectory's move in earlier steps, oldest first, for a
                       function that is marked by llmrl.marks.reads_earlier
    remembered         numbers of the function's own scores in earlier steps, oldest first, for one that is marked by
                       llmrl.marks.remembers
    correct            the verdict of the other rewards: True, False, or None if none of them gives one
    trajectory         the llmrl.types.Trajectory itself, with those before and after it in the tree of a recipe's moves
    <column>           any column of the data row, by its name
    group              alone: the function is called once per group and returns a list, one result each
    authors            beside group, of an async function: the roles of the recipe that it may ask, as Respondents

Its keyword-only parameters are its settings. It returns a number, a bool (a verdict), a Score, a Failure, or None for a
row of another task, whose sum it then leaves alone. Functions written for TRL, verl or OpenRLHF are called as they
expect (llmrl/rewards/conventions.py). Plain functions run in killable processes; `async def` functions run in the event
loop. Both have a deadline. Functions that take `correct`, `group` or `trajectory` are called once the others have
scored every trajectory of the question.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from llmrl.errors import RecipeError, faults_at, gathered, unknown_name
from llmrl.recipe_rows import DIRECTION
from llmrl.rewards.cache import ResultCache, cache_key
from llmrl.rewards.respondents import Respondent, roles_asked_by
from llmrl.rewards.results import NO_REWARD, as_score, of_each, shown
from llmrl.rewards.reward import EARLIER, KEY, REMEMBERED, Reward, value_at
from llmrl.rewards.votes import answers_of
from llmrl.rewards.workers import Workers
from llmrl.types import Failure, Group, Score, Trajectory


class Rewards:
    """The rewards that a recipe names. A trajectory's reward is the weighted sum of their values."""

    def __init__(self, rewards: Sequence[Reward], *, workers: Workers, authors: Mapping[str, Respondent] | None = None):
        self.rewards = tuple(rewards)
        self.authors = authors or {}
        self.cache: ResultCache[list[Score | Failure | None]] = ResultCache()
        self._workers = workers
        self._earlier: dict[str, deque[Mapping[str, str]]] = {}
        self._remembered = {r.name: deque[float](maxlen=r.remembers[1]) for r in self.rewards if r.remembers}
        workers.warm(reward.module for reward in rewards)

    @classmethod
    def from_specs(
        cls,
        specs: Mapping[str, Mapping[str, Any] | None],
        *,
        workers: Workers,
        authors: Mapping[str, Respondent] | None = None,
    ) -> Rewards:
        """The set from a recipe's `rewards:` mapping of names to settings.

        A name is a built-in one or `module:function`. Every reward takes its own settings and `weight` (1.0),
        `deadline_seconds` (10, unless the function is marked otherwise), `retries` (1) and `rows` (all of them).
        authors: the roles that rewards may ask. Raises RecipeError with all faults at once.
        """
        rewards: list[Reward] = []
        faults: list[str] = []
        for name, settings in specs.items():
            with gathered(faults):
                rewards.append(Reward.from_spec(name, settings or {}))
        others = [reward.name for reward in rewards if not reward.piece.mark("reads_rewards")]
        faults += [fault for reward in rewards for fault in _unread(reward, others)]
        for reward in rewards:
            rest = [one.name for one in rewards if one is not reward]
            unknown = [name for name in reward.only_if if name not in rest]
            faults += [unknown_name(f"{KEY}.{reward.name}.only_if", name, rest, "other reward") for name in unknown]
        if faults:
            raise RecipeError(*faults)
        return cls(rewards, workers=workers, authors=authors)

    @property
    def model_folders(self) -> list[str]:
        """The folders of the models that rewards load."""
        return [folder for _, folder, _ in self._model_folders()]

    def check_folders(self, coming: Callable[[str], bool]) -> None:
        """Look at the folders of the models that rewards load, but for those that are `coming` from an earlier stage.

        Raises RecipeError for folders without a model, or with one of another kind.
        """
        faults: list[str] = []
        for key, folder, look in self._model_folders():
            if not coming(folder):
                with gathered(faults), faults_at(key):
                    look(folder)
        if faults:
            raise RecipeError(*faults)

    def _model_folders(self) -> Iterator[tuple[str, str, Callable[[str], None]]]:
        """The key of each folder, the folder, and what looks at it."""
        for reward in self.rewards:
            for piece in reward.loading:
                mark = piece.mark("models")
                key = f"{KEY}.{reward.name}" + ("" if piece is reward.piece else f" ({piece.name})")
                for name in mark.settings:
                    given = piece.settings[name]
                    for folder in [given] if isinstance(given, str) else given:
                        yield f"{key}.{name}", folder, mark.look

    def load_models(self) -> None:
        """Load the models that rewards need; raises RecipeError with every fault."""
        faults: list[str] = []
        for piece in (piece for reward in self.rewards for piece in reward.loading):
            with gathered(faults):
                piece.mark("models").load(**piece.settings)
        if faults:
            raise RecipeError(*faults)

    def check_roles(self, roles: Collection[str]) -> None:
        """Raises RecipeError for a reward that asks a role which is not one of these."""
        faults = [
            unknown_name(f"{KEY}.{reward.name}", role, roles, "role of the recipe")
            for reward in self.rewards
            for role in sorted(roles_asked_by(reward.piece).difference(roles))
        ]
        if faults:
            raise RecipeError(*faults)

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
        if self.rewards and unscored:  # a recipe without rewards is refused where it needs some
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

    def remember(self, groups: Sequence[Group]) -> None:
        """Keep of a step the parts of texts, by move, and numbers of scores, for rewards that read those of earlier
        steps."""
        most = max((reward.reads_earlier for reward in self.rewards), default=0)
        for one in (one for group in groups for one in group.trajectories if most and one.parts):
            self._earlier.setdefault(one.move, deque(maxlen=most)).append(dict(one.parts))
        for reward in (reward for reward in self.rewards if reward.remembers):
            scores = [one.scores.get(reward.name) for group in groups for one in group.trajectories]
            entry = reward.remembers[0] if reward.remembers else ""
            self._remembered[reward.name] += [s.metrics[entry] for s in scores if s is not None and entry in s.metrics]

    def state_dict(self) -> dict[str, dict[str, list[Any]]]:
        """The texts of earlier steps that rewards read, by move, and the numbers, by reward."""
        return {
            EARLIER: {move: list(texts) for move, texts in self._earlier.items()},
            REMEMBERED: {name: list(numbers) for name, numbers in self._remembered.items()},
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
        """Restore what `state_dict` gave."""
        most = max((reward.reads_earlier for reward in self.rewards), default=0)
        self._earlier = {move: deque(texts, maxlen=most) for move, texts in state[EARLIER].items()}
        for name, numbers in self._remembered.items():
            numbers.extend(state[REMEMBERED].get(name, ()))

    async def begin(self, group: Group) -> None:
        """Fill in the scores of the rewards that read no other verdict; a trajectory that has them is left as it is.

        Raises RecipeError for a column that the row lacks.
        """
        rows = [one.prompt.row for one in group.trajectories] or [group.prompt.row]
        faults = [fault for reward in self._scoring(group) for fault in reward.faults(rows)]
        if faults:
            raise RecipeError(*faults)
        fresh = [one for one in group.trajectories if one.failure is None and not one.judged]
        for trajectory in fresh:
            trajectory.judged = True
        if fresh:
            live = replace(group, trajectories=fresh)
            await self._score([reward for reward in self._scoring(group) if not reward.reads_verdicts], live)

    async def score(self, group: Group) -> None:
        """Fill in every trajectory's scores and reward, concurrently; rewards that read verdicts come last.

        reward = sum over rewards of weight * value, where the row's direction is a factor of the weights that it names;
        turn_rewards and token_rewards are the same sums of turn and token values. A reward that is not of this row or
        move, or returns None, has no score and adds nothing. A trajectory on which a reward failed, retries
        included, or that no reward scored, gets `failure` and the reward nan; one that had failed before stays as it
        was, and so does one of a move that no reward is of. Raises RecipeError for a column that the row lacks.
        """
        fresh = [trajectory for trajectory in group.trajectories if trajectory.failure is None]
        await self.begin(replace(group, trajectories=fresh))
        scoring = self._scoring(group)
        live = replace(group, trajectories=[one for one in fresh if one.failure is None])
        if live.trajectories:
            await self._score([reward for reward in scoring if reward.reads_verdicts], live)
        for trajectory in fresh if scoring or not _of_move(group) else ():
            self._add_up(trajectory)

    def _scoring(self, group: Group) -> list[Reward]:
        """The rewards of the group's row and move."""
        move = _of_move(group)
        return [one for one in self.rewards if one.scores(group.prompt.row) and one.scores_move(move)]

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
        """Fill in the sums of the trajectory's scores; a reward without one, or one that does not count, adds 0.

        A reward of weight 0 has no component.
        """
        if not trajectory.scores:
            trajectory.failure = trajectory.failure or NO_REWARD
        if trajectory.failure:
            trajectory.reward = math.nan
            return
        weights, direction = self.weights, trajectory.prompt.row.get(DIRECTION)
        if isinstance(direction, Mapping):
            weights = {name: weight * direction.get(name, 1.0) for name, weight in weights.items()}
        counting = {reward.name: reward.counts(trajectory.scores) for reward in self.rewards}
        scores = {name: score for name, score in trajectory.scores.items() if counting.get(name, True)}
        trajectory.components = {
            name: weight * scores[name].value if name in scores else 0.0 for name, weight in weights.items() if weight
        }
        trajectory.reward = math.fsum(trajectory.components.values())
        by_turn = [
            [None if value is None else weights[name] * value for value in score.turn_values]
            for name, score in scores.items()
        ]
        given = [[value for value in turn if value is not None] for turn in zip_longest(*by_turn)]
        trajectory.turn_rewards = [math.fsum(turn) if turn else None for turn in given]
        by_token: dict[int, list[float]] = {}
        for name, score in scores.items():
            for place, value in score.token_values.items():
                by_token.setdefault(place, []).append(weights[name] * value)
        trajectory.token_rewards = {place: math.fsum(values) for place, values in by_token.items()}

    async def _with_retries(self, reward: Reward, part: Group) -> list[Score | Failure | None]:
        results = await self._attempt(reward, part)
        for _ in range(reward.retries):
            if not any(isinstance(result, Failure) for result in results):
                break
            results = await self._attempt(reward, part)
        return results

    async def _attempt(self, reward: Reward, part: Group) -> list[Score | Failure | None]:
        """The part's scores; a function marked by `cached_by` shares them with equal calls, also concurrent ones."""
        own = self._remembered.get(reward.name, ())
        function, args = reward.call(part, self.authors, self._earlier, own)
        key = cache_key(function, args, reward.piece.settings)
        if key is None:
            return await self._scored(reward, part, function, args)
        turns = tuple(len(trajectory.own_turns) for trajectory in part.trajectories)  # the lengths of turn_values
        return await self.cache.get(
            (reward.name, turns, key),
            lambda: self._scored(reward, part, function, args),
            keep=lambda results: not any(isinstance(result, Failure) for result in results),
        )

    async def _scored(
        self, reward: Reward, part: Group, function: Callable[..., Any], args: list[Any]
    ) -> list[Score | Failure | None]:
        count = len(part.trajectories)
        try:
            result = await self._call(reward, function, args)
        except TimeoutError as error:
            failure = Failure(reward.name, "timeout", str(error) or "the function raised TimeoutError")
        except ValueError as error:
            failure = Failure(reward.name, "invalid", str(error))
        except Exception as error:
            failure = Failure(reward.name, "crash", str(error) or type(error).__name__)
        else:
            results = of_each(result, count) if reward.per_group else [result]
            if results is not None:
                pairs = zip(results, part.trajectories, strict=True)
                return [
                    as_score(reward.name, one, turns=len(trajectory.own_turns), grades=reward.grades)
                    for one, trajectory in pairs
                ]
            expected = f"a list of {count}, one result per trajectory"
            failure = Failure(reward.name, "invalid", f"returned {shown(result)}, expected {expected}")
        return [failure] * count

    async def _call(self, reward: Reward, function: Callable[..., Any], args: list[Any]) -> Any:
        settings = reward.piece.settings
        if not reward.is_async:
            return await self._workers.run(function, args, settings, reward.deadline_seconds)
        deadline = asyncio.timeout(reward.deadline_seconds)
        try:
            async with deadline:
                return await function(*args, **settings)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise TimeoutError(f"ran past its deadline of {reward.deadline_seconds:g} seconds") from None


def _unread(reward: Reward, others: Sequence[str]) -> list[str]:
    """A sentence for each reward that a function reads the scores of, and that is none of the others."""
    read = {key: reward.piece.setting(key) or () for key in reward.piece.mark("reads_rewards") or ()}
    unknown = [(key, name) for key, names in read.items() for name in names if name not in others]
    return [unknown_name(f"{KEY}.{reward.name}.{key}", name, others, "reward") for key, name in unknown]


def _of_move(group: Group) -> str:
    """The move of a group's trajectories; empty without one."""
    return group.trajectories[0].move if group.trajectories else ""


def _parts(reward: Reward, group: Group) -> list[Group]:
    """The arguments of each call: the group, or each of its trajectories alone."""
    return [group] if reward.per_group else [replace(group, trajectories=[one]) for one in group.trajectories]

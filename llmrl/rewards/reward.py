"""A reward of a recipe: a function with its settings, what it reads, and how it is called."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat

from llmrl.columns import NoColumnError, column
from llmrl.errors import RecipeError, nearest, unknown_name
from llmrl.pieces import Piece, bind, find
from llmrl.rewards.catalogue import CATALOGUE as REWARDS
from llmrl.rewards.catalogue import VERIFIERS
from llmrl.rewards.conventions import (
    LOGGERS,
    NATIVE,
    UNSENT,
    Convention,
    Parameters,
    call,
    call_async,
    convention_of,
    data_of,
    parameters_of,
)
from llmrl.rewards.respondents import Respondent
from llmrl.types import Group, Score, Trajectory

KEY = "rewards"
NO_VERDICTS = "reads the verdict of another reward, and none gives any; add a verifier, such as math_verifier: {}"


def _run_settings(
    *,
    weight: float = 1.0,
    deadline_seconds: PositiveFloat = 10.0,
    retries: NonNegativeInt = 1,
    rows: dict[str, Any] | None = None,
    columns: dict[str, str] | None = None,
    moves: str | list[str] | None = None,
    only_if: str | list[str] | None = None,
    function: str | None = None,
) -> dict[str, Any]:
    """The settings that every reward has in addition to its function's own, as fields of a Reward."""
    run = {"weight": weight, "deadline_seconds": deadline_seconds, "retries": retries, "function": function}
    lists = {"moves": moves, "only_if": only_if}
    named = {name: (given,) if isinstance(given, str) else tuple(given or ()) for name, given in lists.items()}
    return run | {"rows": rows or {}, "column_of": columns or {}} | named


EARLIER, REMEMBERED = "earlier", "remembered"
"""The data of functions that read texts, and numbers of their own, of earlier steps."""
OF_GROUP = ("group", "authors")
"""The data of a function that scores a whole group; authors: the recipe's roles, for one that asks them."""
_MISSING = object()
RUN_SETTINGS = tuple(inspect.signature(_run_settings).parameters)


@dataclass(frozen=True)
class Reward:
    """A reward function with its settings, and how it is run: `retries` more attempts after a failed one.

    name: the recipe's, which metrics have; function: the name of the function, where that is another one.
    rows: by column, or path into one, the value or the list of values of the rows that it scores; default: all rows.
    column_of: by parameter the column, or path into one, that it stands for; default: the column of its name.
    moves: those whose trajectories it scores; default: all of them. only_if: other rewards of the role, all of whose
    values have to be above 0, or this reward adds nothing: a veto.
    """

    name: str
    piece: Piece
    weight: float = 1.0
    deadline_seconds: float = 10.0
    retries: int = 1
    rows: Mapping[str, Any] = field(default_factory=dict)
    column_of: Mapping[str, str] = field(default_factory=dict)
    moves: tuple[str, ...] = ()
    only_if: tuple[str, ...] = ()
    function: str | None = None

    @functools.cached_property
    def convention(self) -> Convention:
        return convention_of(self.piece.function)

    @functools.cached_property
    def parameters(self) -> Parameters:
        return parameters_of(self.piece.function)

    @property
    def reads_group(self) -> bool:
        """Whether the function takes the Group itself."""
        return self.convention is NATIVE and "group" in self.piece.data

    @property
    def reads_earlier(self) -> int:
        """How many texts of earlier steps the function reads."""
        setting = self.piece.mark("reads_earlier")
        return self.piece.setting(setting) if setting else 0

    @property
    def remembers(self) -> tuple[str, int] | None:
        """The entry of its metrics that the function reads from earlier steps, and how many numbers."""
        mark = self.piece.mark("remembers")
        return mark and (mark[0], self.piece.setting(mark[1]))

    @property
    def per_group(self) -> bool:
        """Whether a call is for a whole group, with a result for each trajectory."""
        return self.reads_group or self.convention.per_group

    @property
    def reads_verdicts(self) -> bool:
        """Whether the function may read what other rewards say."""
        return self.convention is NATIVE and bool({"group", "correct", "trajectory"} & set(self.piece.data))

    @property
    def reads_tokens(self) -> bool:
        """Whether the function may read sampled tokens."""
        tokens = {"completion_tokens", "completion_ids", "episode", "trajectory"}
        return self.per_group or bool(tokens & set(self.piece.data))

    @property
    def needs_verdicts(self) -> bool:
        """Whether the function is of no use without another reward's verdict."""
        return self.reads_verdicts and ("correct" in self.piece.data or bool(self.piece.mark("needs_verdicts")))

    @property
    def may_give_verdicts(self) -> bool:
        """Whether other rewards may read its verdicts: of a function that is not built in, only a call can tell."""
        without = set(REWARDS.values()).difference(VERIFIERS)
        return not self.reads_verdicts and self.piece.function not in without

    @property
    def module(self) -> str:
        """The module that a process must import to run the function."""
        called = self.function or self.name
        return called.partition(":")[0] if ":" in called else self.piece.function.__module__

    @property
    def of_rows(self) -> tuple[str, ...]:
        """The function's parameters that stand for columns of the data."""
        others = {
            *self.convention.data,
            *LOGGERS,
            *((*OF_GROUP, EARLIER, REMEMBERED) if self.convention is NATIVE else []),
        }
        return tuple(name for name in self.piece.data if name not in others)

    @property
    def columns(self) -> tuple[str, ...]:
        """The data columns that the function takes by name."""
        return tuple(self._columns(name)[0] for name in self.of_rows)

    @property
    def loading(self) -> list[Piece]:
        """The functions that load models: the reward's own, and those among its settings."""
        return [piece for piece in _with_those_of_settings(self.piece) if piece.mark("models")]

    @property
    def grades(self) -> int | None:
        """The number of grades by the function's mark (llmrl.marks.gives_grades); None without the mark."""
        return getattr(self.piece.function, "grades", None)

    def scores(self, row: Mapping[str, Any]) -> bool:
        """Whether the row is one of those that `rows` names."""
        return all(value_at(row, name) in _listed(values) for name, values in self.rows.items())

    def scores_move(self, move: str) -> bool:
        """Whether the trajectories of a move are among those that `moves` names."""
        return not self.moves or move in self.moves

    def counts(self, scores: Mapping[str, Score]) -> bool:
        """Whether the reward adds to the sum of a trajectory with these scores."""
        return all(name in scores and scores[name].value > 0 for name in self.only_if)

    def faults(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """A sentence for each column that the function takes and that some row it scores lacks."""
        scored, faults = [row for row in rows if self.scores(row)], []
        for name in self.of_rows:
            lacking = [row for row in scored if self._value(row, name) is _MISSING]
            if not lacking or self._may_lack(name):
                continue
            columns, asked = list(lacking[0]), self._columns(name)
            guess = self._meant(lacking[0], asked[0]) if len(asked) == 1 else None
            hint = f"did you mean '{guess}'?" if guess else f"columns: {', '.join(columns) or 'none'}"
            whole = len(lacking) == len(scored)
            where = "the data has" if whole else f"{len(lacking)} of the {len(scored)} rows that it scores have"
            limit = "" if whole else f"; to score the others alone, set {KEY}.{self.name}.rows"
            if len(asked) > 1:
                hint += f"; name it, as in {KEY}.{self.name}.columns: {{{name}: COLUMN}}"
            wanted = " or ".join(f"'{column}'" for column in asked)
            faults.append(f"{KEY}.{self.name}: {where} no column {wanted}; {hint}{limit}")
        return faults

    def call(
        self,
        part: Group,
        authors: Mapping[str, Respondent],
        earlier: Mapping[str, Sequence[Mapping[str, str]]],
        remembered: Sequence[float] = (),
    ) -> tuple[Callable[..., Any], list[Any]]:
        """The function to call for the part's trajectories, and its arguments: data, but no settings.

        authors, earlier, remembered: of the functions that read them; earlier is by move.
        """
        function = self.piece.function
        if self.reads_group:
            return function, [part if name == "group" else authors for name in self.piece.data]
        if self.convention is NATIVE:
            [trajectory] = part.trajectories
            told = {EARLIER: list(earlier.get(trajectory.move, ())), REMEMBERED: list(remembered)}
            names = self.piece.data
            return function, [told[name] if name in told else self._datum(trajectory, name) for name in names]
        every = [self._data(trajectory) for trajectory in part.trajectories]
        data = {name: [one[name] for one in every] for name in every[0]} if self.per_group else every[0]
        whole = any(one.kind is one.VAR_KEYWORD for one in self.parameters.values())
        loggers = [name for name in LOGGERS if self.convention.logs and (whole or name in self.parameters)]
        return call_async if self.is_async else call, [function, data, loggers]

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.piece.function)

    def _data(self, trajectory: Trajectory) -> dict[str, Any]:
        """The data of a function of another framework, by name; without columns that the row may lack, and lacks."""
        names = list(self.piece.data)
        if any(one.kind is one.VAR_KEYWORD for one in self.parameters.values()):
            names += self.convention.names
            names += trajectory.prompt.row if self.convention.all_columns else ()
        unasked = {*LOGGERS, *UNSENT, *self.piece.settings} - set(self.piece.data) | set(LOGGERS)
        found = {name: self._datum(trajectory, name) for name in dict.fromkeys(names) if name not in unasked}
        return {name: value for name, value in found.items() if value is not _MISSING}

    def _datum(self, trajectory: Trajectory, name: str) -> Any:
        if name in self.convention.data:
            return self.convention.data[name](trajectory)
        return self._value(trajectory.prompt.row, name)

    def stood_for(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of whose columns the row has none, each with the value that is given in its place."""
        otherwise = self._otherwise()
        return {
            name: otherwise[name] for name in self.of_rows if name in otherwise and self._read(row, name) is _MISSING
        }

    def _value(self, row: Mapping[str, Any], name: str) -> Any:
        """The value of a parameter in a row: that of the first of its columns that is there."""
        value, otherwise = self._read(row, name), self._otherwise()
        return copy.copy(otherwise[name]) if value is _MISSING and name in otherwise else value

    def _otherwise(self) -> dict[str, Any]:
        """The values in place of columns that the data lacks; a column that the recipe names has to be there."""
        return {name: value for name, value in self.convention.otherwise.items() if name not in self.column_of}

    def _read(self, row: Mapping[str, Any], name: str) -> Any:
        for one in self._columns(name):
            with contextlib.suppress(NoColumnError):
                return column(row, one)
        return _MISSING

    def _columns(self, name: str) -> tuple[str, ...]:
        return (self.column_of[name],) if name in self.column_of else self.convention.columns.get(name, (name,))

    def _meant(self, row: Mapping[str, Any], name: str) -> str | None:
        """The nearest column, or the nearest path into the column that a path begins with."""
        above, dot, last = name.rpartition(".")
        with contextlib.suppress(NoColumnError):
            inside = column(row, above) if dot else None
            if isinstance(inside, Mapping) and (guess := nearest(last, inside)):
                return f"{above}.{guess}"
        return nearest(name, [*row, *self.convention.data])

    def _may_lack(self, name: str) -> bool:
        """Whether rows may lack a parameter's columns: then the function's own default holds."""
        if name in self.column_of:
            return False
        return self.convention is not NATIVE and self.parameters[name].default is not inspect.Parameter.empty

    @classmethod
    def from_spec(cls, name: str, settings: Mapping[str, Any]) -> Reward:
        """The reward that a recipe's line names; raises RecipeError naming the key and the nearest valid one."""
        own = {key: value for key, value in settings.items() if key not in RUN_SETTINGS}
        run = {key: value for key, value in settings.items() if key in RUN_SETTINGS}
        common = bind(name, _run_settings, run, key=KEY).settings
        called = _function_of(name, common.get("function"))
        _check_names(name, called, own)
        function = find(called, REWARDS, key=KEY if called == name else f"{KEY}.{name}.function", what="reward")
        piece = bind(name, function, own, key=KEY, data=data_of(function, own))
        default = {
            "deadline_seconds": getattr(piece.function, "deadline_seconds", cls.deadline_seconds),
            "retries": 0 if piece.mark("service") else cls.retries,
        }
        reward = cls(name, piece, **_run_settings(**{**default, **common}))
        if not math.isfinite(reward.weight):
            raise RecipeError(f"{KEY}.{name}.weight: {reward.weight} is not valid: expected a finite number")
        if reward.reads_group and (more := set(piece.data).difference(OF_GROUP)):
            raise RecipeError(f"{KEY}.{name}: takes group and {len(more)} more; group must be alone, or beside authors")
        if unknown := [one for one in reward.column_of if one not in reward.of_rows]:
            raise RecipeError(unknown_name(f"{KEY}.{name}.columns", unknown[0], reward.of_rows, "column's parameter"))
        return reward


def _function_of(name: str, function: str | None) -> str:
    """The function of a reward; raises RecipeError for a name of the recipe's own that metrics cannot have, or that is
    another function's."""
    if function is None or function == name:
        return name
    if name in REWARDS or not name.strip() or set(":/") & set(name):
        raise RecipeError(
            f"{KEY}.{name}.function: {function}, but '{name}' is no name of your own: expected one that no reward has, "
            f"without ':' and '/'"
        )
    return function


def _check_names(name: str, called: str, own: Mapping[str, Any]) -> None:
    """Raises RecipeError for a misspelt common setting, and for a setting with the name of a common one."""
    try:
        function = pkgutil.resolve_name(called) if ":" in called else REWARDS[called]
        parameters = inspect.signature(function).parameters.values()
        data = data_of(function, own)
    except Exception:  # a user's module may raise anything; find says what is wrong
        return
    valid = {p.name for p in parameters if (p.kind is p.KEYWORD_ONLY if data is None else p.name not in data)}
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


def _with_those_of_settings(piece: Piece) -> Iterator[Piece]:
    yield piece
    for value in piece.settings.values():
        if isinstance(value, Piece):
            yield from _with_those_of_settings(value)


def value_at(row: Mapping[str, Any], name: str) -> Any:
    """The value of the row's column, or of the path into one; None if there is none."""
    try:
        return column(row, name)
    except NoColumnError:
        return None


def _listed(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else [values]

"""Conventions of reward functions: what each parameter's name stands for, and once for what a function is called.

    llmrl       f(completion, answer, ...)                              a trajectory, data by position
    TRL         f(prompts, completions, answer, **kwargs)               a group, a list for each name
    verl        f(data_source, solution_str, ground_truth, extra_info)  a trajectory, data by name
    verl        f(data_sources, solution_strs, ground_truths, extra_infos)    a group, a list for each name
    OpenRLHF    f(queries, prompts, labels)                             a group, a list for each name

A function follows the first convention of the table whose marking parameter it has, and llmrl's without one. Functions
of other frameworks need no change: parameters that their convention does not name are columns of the data, and those
with a default may be set in a recipe, or are left out where the rows have no such column.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmrl.types import ENVIRONMENT, Trajectory

Parameters = Mapping[str, inspect.Parameter]


@dataclass(frozen=True)
class Convention:
    """The way in which one framework calls reward functions.

    marks: parameters that only its functions have. data: name -> its value for one trajectory. columns: name -> the
    columns, or paths into one, of which the first that the row has is taken. otherwise: name -> the value where a row
    has none of them. per_group: whether a call is for a group, with a list for each name. all_columns: whether
    `**kwargs` gets every other column. logs: whether functions may log numbers through log_metric and log_extra.
    """

    marks: frozenset[str]
    data: Mapping[str, Callable[[Trajectory], Any]]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    otherwise: Mapping[str, Any] = field(default_factory=dict)
    per_group: bool = False
    all_columns: bool = False
    logs: bool = False

    @property
    def names(self) -> frozenset[str]:
        """The parameters whose meaning the convention fixes."""
        return frozenset([*self.data, *self.columns, *(LOGGERS if self.logs else ())])


def _row(trajectory: Trajectory) -> dict[str, Any]:
    return dict(trajectory.prompt.row)


def _token_ids(trajectory: Trajectory) -> list[int]:
    return [token for turn in trajectory.own_turns for token in turn.token_ids]


def _text(trajectory: Trajectory) -> str:
    return trajectory.text


def _prompt_text(trajectory: Trajectory) -> str:
    return trajectory.prompt.text


def _prompt(trajectory: Trajectory) -> Any:
    """The prompt as messages where the data is a chat, else its text."""
    messages = trajectory.prompt.messages
    return trajectory.prompt.text if messages is None else [dict(message) for message in messages]


def _completion(trajectory: Trajectory) -> Any:
    """The turns after the prompt as messages where the data is a chat, else the text of the last one."""
    if trajectory.prompt.messages is None:
        return trajectory.text
    roles = {ENVIRONMENT: "tool"}
    said = [{"role": roles.get(turn.author, "assistant"), "content": turn.text} for turn in trajectory.turns[:-1]]
    return [*said, {"role": "assistant", "content": trajectory.text}]


LOGGERS = ("log_metric", "log_extra")
UNSENT = frozenset({"prompt", "completion"})
"""Columns of the data that never reach `**kwargs`."""
NATIVE = Convention(
    marks=frozenset({"completion"}),
    data={
        "completion": _text,
        "prompt": _prompt_text,
        "row": _row,
        "stop_reason": lambda trajectory: trajectory.stop_reason,
        "completion_tokens": lambda trajectory: trajectory.completion_tokens,
        "completion_ids": _token_ids,
        "episode": lambda trajectory: trajectory.episode,
        "correct": lambda trajectory: trajectory.correct,
        "trajectory": lambda trajectory: trajectory,
    },
)
TRL = Convention(
    marks=frozenset({"completions"}),
    data={"prompts": _prompt, "completions": _completion, "completion_ids": _token_ids},
    per_group=True,
    all_columns=True,
    logs=True,
)
GROUND_TRUTH = ("reward_model.ground_truth", "ground_truth", "answer")
VERL = Convention(
    marks=frozenset({"solution_str"}),
    data={"solution_str": _text},
    columns={"data_source": ("data_source",), "ground_truth": GROUND_TRUTH, "extra_info": ("extra_info",)},
    otherwise={"data_source": "", "extra_info": {}},
)
VERL_BATCH = Convention(
    marks=frozenset({"solution_strs"}),
    data={"solution_strs": _text},
    columns={"data_sources": ("data_source",), "ground_truths": GROUND_TRUTH, "extra_infos": ("extra_info",)},
    otherwise={"data_sources": "", "extra_infos": {}},
    per_group=True,
)
OPENRLHF = Convention(
    marks=frozenset({"queries"}),
    data={"queries": lambda trajectory: trajectory.prompt.text + trajectory.text, "prompts": _prompt_text},
    columns={"labels": ("label", "labels", "answer")},
    per_group=True,
)
CONVENTIONS = (NATIVE, TRL, VERL, VERL_BATCH, OPENRLHF)


def parameters_of(function: Callable[..., Any]) -> Parameters:
    """The function's parameters; none for one that does not say what it takes."""
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return {}


def convention_of(function: Callable[..., Any]) -> Convention:
    """The convention by which the function is called."""
    named = {p.name for p in parameters_of(function).values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return next((one for one in CONVENTIONS if one.marks & named), NATIVE)


def data_of(function: Callable[..., Any], settings: Collection[str]) -> tuple[str, ...] | None:
    """The function's parameters that are data, given the recipe's settings; None: those before the star."""
    convention = convention_of(function)
    if convention is NATIVE:
        return None
    return tuple(
        p.name
        for p in parameters_of(function).values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (p.name in convention.data or p.name not in settings)
        and (p.name in convention.names or p.kind is not p.KEYWORD_ONLY)
    )


@dataclass(repr=False)
class Logged:
    """A result with the numbers that the function logged: one for the call, or one for each completion."""

    result: Any
    metrics: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return repr(self.result)

    def log_metric(self, name: str, value: Any) -> None:
        """Note a number for the call."""
        self.metrics[str(name)] = value

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """Note a value for each completion."""
        self.metrics[str(column)] = list(values)


def call(function: Callable[..., Any], data: Mapping[str, Any], loggers: Sequence[str], **settings: Any) -> Any:
    """The function's result for data by name, as Logged if it takes loggers."""
    logged = Logged(None)
    logged.result = function(**data, **{name: getattr(logged, name) for name in loggers}, **settings)
    return logged if loggers else logged.result


async def call_async(
    function: Callable[..., Any], data: Mapping[str, Any], loggers: Sequence[str], **settings: Any
) -> Any:
    """As `call`, of an async function."""
    logged = call(function, data, loggers, **settings)
    if not loggers:
        return await logged
    logged.result = await logged.result
    return logged

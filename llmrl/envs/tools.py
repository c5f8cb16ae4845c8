"""Worlds of tools: Python functions, and TRL's environment classes, whose public methods are tools."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, PositiveFloat

from llmrl.data.messages import calls_of
from llmrl.data.tool_calls import CallForm, CallReader, UnreadableCallError
from llmrl.envs.base import AuthorText
from llmrl.envs.toolbox import Schema, Tool, Toolbox, describe, in_thread, tool_of
from llmrl.envs.world import Outcome
from llmrl.errors import short, unknown_name
from llmrl.marks import brings_tools, settings_checked_by
from llmrl.pieces import import_function
from llmrl.types import Prompt

Text = Annotated[str, Field(min_length=1)]
RESET, GET_REWARD, CLOSE = "reset", "get_reward", "close"
ENVIRONMENT_COLUMN = "environment"
"""The column that names a row's environment, where a recipe has several."""


async def _nothing() -> None:
    return None


class ToolWorld:
    """An episode in which an author calls tools until a turn without a call, which is the answer.

    Several calls of a turn are made one after another, and answered by messages in their order. opening: a text that
    follows the prompt. reward: of the whole episode, asked once, when it ends.
    """

    def __init__(
        self,
        toolbox: Toolbox,
        reader: CallReader,
        *,
        opening: Callable[[], Awaitable[str | None]] = _nothing,
        reward: Callable[[], Awaitable[float | None]] = _nothing,
        close: Callable[[], Awaitable[None]] = _nothing,
    ):
        self.toolbox, self._reader = toolbox, reader
        self._opening, self._reward, self._close = opening, reward, close
        self._made = 0

    async def reset(self, seed: int) -> Outcome:
        return Outcome(await self._opening() or "", metrics=self.toolbox.metrics)

    async def act(self, action: str) -> Outcome:
        try:
            said = self._reader.message(action, self.toolbox.schemas)
        except UnreadableCallError as error:
            return Outcome(str(error), valid=False)
        calls = calls_of(said)
        if not calls:
            return await self.end()
        for whole in said["tool_calls"]:
            self._made += 1
            whole.setdefault("id", f"call{self._made % 100000:05d}")  # Mistral's templates want nine characters
        answers = [
            await self.toolbox.answer(call) | {"tool_call_id": whole["id"]}
            for call, whole in zip(calls, said["tool_calls"], strict=True)
        ]
        state = "\n".join(str(answer["content"]) for answer in answers)
        return Outcome(messages=[said, *answers], state=state, metrics=self.toolbox.metrics)

    async def end(self) -> Outcome:
        """The end of the episode, with its reward: after the answer, or where a limit ended it."""
        return Outcome(terminated=True, reward=await self._reward(), metrics=self.toolbox.metrics)

    async def close(self) -> None:
        await self._close()


def reader_of(authors: Mapping[str, AuthorText], pattern: str | None) -> CallReader:
    """The reader of the first author's calls: as the tokenizer says, or by a pattern."""
    return next(iter(authors.values())).calls if pattern is None else CallReader(CallForm.of(pattern))


def check_pattern(pattern: str | None) -> None:
    """Raises ValueError for a pattern that finds no calls."""
    if pattern is not None:
        try:
            CallForm.of(pattern)
        except ValueError as error:
            raise ValueError(f"calls: {pattern!r}: {error}") from None


def _functions(functions: Sequence[str]) -> list[Tool]:
    """The tools at these places; raises ValueError for what is no tool, or if two have one name."""
    found = [tool_of(import_function(place, "env.tools.functions")) for place in functions]
    names = [tool.described.name for tool in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"functions: two tools are named '{twice[0]}'")
    return found


def _check_tools(*, functions: Sequence[str], calls: str | None, **others: Any) -> None:
    _functions(functions)
    check_pattern(calls)


def _function_schemas(row: Mapping[str, Any], *, functions: Sequence[str], **others: Any) -> list[Schema]:
    return [tool.described.schema for tool in _functions(functions)]


@brings_tools(_function_schemas)
@settings_checked_by(_check_tools)
def tools(
    prompt: Prompt,
    authors: Mapping[str, AuthorText],
    *,
    functions: Annotated[list[Text], Field(min_length=1)],
    seconds: PositiveFloat = 10.0,
    calls: Text | None = None,
) -> ToolWorld:
    """Python functions that the actor may call, each `module:function`, until a turn without a call is the answer.

    A function's schema comes from its type hints and its docstring, whose section `Args:` describes each argument, and
    stands in the prompt. What a function returns is told as text or as JSON; what it raises, or that it gave no answer
    within `seconds`, as {"error": ...}, and is counted. A function may be async; another one gets a thread. calls: a
    regular expression of a call, where the tokenizer's own form is not meant: its group `call` (or its first) is JSON
    with name and arguments, or its groups `name` and `arguments`.
    """
    return ToolWorld(Toolbox(_functions(functions), seconds), reader_of(authors, calls))


def _factories(factory: str | Mapping[str, str]) -> dict[str, Callable[[], Any]]:
    """The makers of environments by name, that of a single one by an empty name."""
    named = {"": factory} if isinstance(factory, str) else factory
    return {name: import_function(place, "env.trl_environment.factory") for name, place in named.items()}


def _factory_of(factory: str | Mapping[str, str], row: Mapping[str, Any]) -> Callable[[], Any]:
    """The maker of a row's environment; raises ValueError if the row names none."""
    known = _factories(factory)
    if isinstance(factory, str):
        return known[""]
    name = row.get(ENVIRONMENT_COLUMN)
    if name not in known:
        raise ValueError(unknown_name(f"column '{ENVIRONMENT_COLUMN}'", str(name), known, "environment"))
    return known[name]


def _methods(environment: Any) -> list[Callable[..., Any]]:
    """The tools of TRL's environment: its public methods but `reset`, `get_reward` and `close`."""
    return [
        member
        for name, member in inspect.getmembers(environment, predicate=inspect.ismethod)
        if name not in (RESET, GET_REWARD, CLOSE) and not name.startswith("_")
    ]


def _class_methods(factory: Callable[[], Any]) -> list[Callable[..., Any]]:
    """The tools of what a factory makes: of a class, without an object; of another callable, of one that it makes."""
    if not inspect.isclass(factory):
        return [getattr(method, "__func__", method) for method in _methods(factory())]
    return [
        member
        for name, member in inspect.getmembers(factory, predicate=inspect.isfunction)
        if name not in (RESET, GET_REWARD, CLOSE)
        and not name.startswith("_")
        and not isinstance(inspect.getattr_static(factory, name), staticmethod)
    ]


def _check_environment(*, factory: str | Mapping[str, str], reward: str | None, calls: str | None, **o: Any) -> None:
    for name, made in _factories(factory).items():
        if not inspect.isclass(made):
            continue
        where = f"factory: {made.__qualname__}" if not name else f"factory.{name}: {made.__qualname__}"
        if not callable(getattr(made, RESET, None)):
            raise ValueError(f"{where} has no method '{RESET}'")
        for method in _class_methods(made):
            describe(method)
    check_pattern(calls)


def _environment_schemas(row: Mapping[str, Any], *, factory: str | Mapping[str, str], **others: Any) -> list[Schema]:
    return [describe(method).schema for method in _class_methods(_factory_of(factory, row))]


@brings_tools(_environment_schemas)
@settings_checked_by(_check_environment)
def trl_environment(
    prompt: Prompt,
    authors: Mapping[str, AuthorText],
    *,
    factory: Text | dict[Text, Text],
    reward: Text | None = None,
    seconds: PositiveFloat = 30.0,
    calls: Text | None = None,
) -> ToolWorld:
    """An environment class as TRL's GRPOTrainer takes it (`environment_factory`), at `module:Class`.

    Each episode has an object of its own. `reset` is called with the row's columns by name, with the messages as
    `prompt`; a text that it returns goes on the last message of the user. Public methods are the tools; what they raise
    is told to the model. `get_reward()` is asked once, at the end, and is the episode's reward; reward: the attribute
    that is the reward of a class without it. `close()` is called if there is one. factory: or a mapping, of which a
    row's column `environment` names one. seconds, calls: as for `tools`; seconds bounds every other call too.
    """
    environment = _factory_of(factory, prompt.row)()
    toolbox = Toolbox([tool_of(method) for method in _methods(environment)], seconds, show=str)

    async def run(name: str, call: Callable[[], Any]) -> Any:
        function = getattr(environment, name)
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return await (call() if inspect.iscoroutinefunction(function) else in_thread(call))
        except TimeoutError:
            if not deadline.expired():
                raise
            raise TimeoutError(f"{type(environment).__name__}.{name} took longer than {seconds:g} s") from None

    async def opening() -> str | None:
        found = await run(RESET, lambda: environment.reset(**_taken(environment.reset, prompt)))
        if found is not None and not isinstance(found, str):
            raise ValueError(f"{type(environment).__name__}.reset returned {short(found)}, expected a text or None")
        return found

    async def rewarded() -> float | None:
        if callable(getattr(environment, GET_REWARD, None)):
            return _number(await run(GET_REWARD, environment.get_reward), environment)
        return None if reward is None else _number(getattr(environment, reward), environment)

    async def close() -> None:
        if callable(getattr(environment, CLOSE, None)):
            await run(CLOSE, environment.close)

    return ToolWorld(toolbox, reader_of(authors, calls), opening=opening, reward=rewarded, close=close)


def _taken(reset: Callable[..., Any], prompt: Prompt) -> dict[str, Any]:
    """The row's columns that `reset` takes."""
    row = dict(prompt.row)
    if prompt.messages is not None:
        row.setdefault("prompt", [dict(message) for message in prompt.messages])
    parameters = inspect.signature(reset).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return row
    return {name: value for name, value in row.items() if name in parameters}


def _number(given: Any, environment: Any) -> float | None:
    if given is None:
        return None
    if isinstance(given, bool | int | float):
        return float(given)
    raise ValueError(f"the reward of {type(environment).__name__} is {short(given)}, expected a number")

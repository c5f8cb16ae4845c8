"""Tools that a model may call: their schemas, and calls whose arguments are checked and which end in time."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from llmrl.data.messages import Message
from llmrl.errors import first_line, nearest

Schema = Mapping[str, Any]
Call = Callable[[Mapping[str, Any]], Any]


class ToolsGoneError(RuntimeError):
    """Tools that answer no call any more, as those of a server that ended: the episode fails."""


def as_text(value: Any) -> str:
    """A tool's result as a model reads it: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class Description:
    """A tool's schema, as chat templates read it, and the check of a call's arguments.

    closed: whether arguments that the schema does not name are faults.
    """

    schema: Schema
    closed: bool = False
    _check: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        from jsonschema import Draft202012Validator

        parameters = _with_null(self.schema["function"].get("parameters") or {"type": "object"})
        if self.closed:
            parameters |= {"additionalProperties": False}
        object.__setattr__(self, "_check", Draft202012Validator(parameters))

    @property
    def name(self) -> str:
        """The name by which a model calls the tool."""
        return self.schema["function"]["name"]

    def fault(self, arguments: Mapping[str, Any]) -> str | None:
        """The first reason why a call's arguments do not fit the schema; None if they fit."""
        error = next(self._check.iter_errors(dict(arguments)), None)
        if error is None:
            return None
        place = ".".join(map(str, error.absolute_path))
        return f"{place}: {error.message}" if place else error.message


@dataclass(frozen=True)
class Tool:
    """A tool: call(arguments) gives its result, or an awaitable of it.

    blocking: whether the call may take long in the thread that makes it, so that it gets a thread of its own.
    """

    described: Description
    call: Call
    blocking: bool = False


@lru_cache(maxsize=1024)
def describe(function: Callable[..., Any]) -> Description:
    """The description of a Python function, from its type hints and its docstring.

    A section `Args:` of the docstring says something of every argument. Raises ValueError where they do not say enough.
    """
    from transformers.utils import chat_template_utils as utils

    try:
        schema = utils.get_json_schema(function)
        open_ended = any(one.kind is one.VAR_KEYWORD for one in inspect.signature(function).parameters.values())
    except (utils.DocstringParsingException, utils.TypeHintParsingException, TypeError, NameError, ValueError) as error:
        name = getattr(function, "__name__", repr(function))
        raise ValueError(f"'{name}' is no tool: {first_line(error)}") from None
    return Description(schema, closed=not open_ended)


def tool_of(function: Callable[..., Any]) -> Tool:
    """The tool that a function or a bound method is; raises ValueError for one that cannot be described."""
    plain = getattr(function, "__func__", function)  # one description for the methods of all objects of a class
    return Tool(
        describe(plain), lambda arguments: function(**arguments), blocking=not inspect.iscoroutinefunction(plain)
    )


@dataclass
class Toolbox:
    """One episode's tools.

    seconds: the deadline of every call. show: what a model reads of a result, and of {"error": message}. calls,
    failures, timeouts: how many there were; a call that took too long has failed.
    """

    tools: Iterable[Tool]
    seconds: float
    show: Callable[[Any], str] = as_text
    calls: int = 0
    failures: int = 0
    timeouts: int = 0

    def __post_init__(self) -> None:
        self._tools = {tool.described.name: tool for tool in self.tools}

    @property
    def schemas(self) -> list[Schema]:
        """The tools' schemas."""
        return [tool.described.schema for tool in self._tools.values()]

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers of the episode."""
        return {"tool_calls": self.calls, "tool_failures": self.failures, "tool_timeouts": self.timeouts}

    async def answer(self, call: Mapping[str, Any]) -> Message:
        """The tool's message that answers a call; what a tool raises is told in it, and counted.

        Raises ToolsGoneError alone.
        """
        name = call["name"]
        self.calls += 1
        try:
            content = self.show(await self._result(name, call.get("arguments") or {}))
        except ToolsGoneError:
            raise
        except (Exception, SystemExit) as error:  # a tool may raise anything, and must not end the run
            self.failures += 1
            content = self.show({"error": str(error) or type(error).__name__})
        return {"role": "tool", "name": name, "content": content}

    async def _result(self, name: str, arguments: Mapping[str, Any]) -> Any:
        tool = self._tools.get(name)
        if tool is None:
            guess = nearest(name, self._tools)
            hint = f"did you mean '{guess}'?" if guess else f"tools: {', '.join(self._tools) or 'none'}"
            raise ValueError(f"no tool named '{name}'; {hint}")
        if fault := tool.described.fault(arguments):
            raise ValueError(f"{name}: {fault}")
        deadline = asyncio.timeout(self.seconds)
        try:
            async with deadline:
                found = await in_thread(lambda: tool.call(arguments)) if tool.blocking else tool.call(arguments)
                return await found if inspect.isawaitable(found) else found
        except TimeoutError:
            if not deadline.expired():
                raise
            self.timeouts += 1
            raise TimeoutError(f"{name} gave no answer within {self.seconds:g} s") from None


async def in_thread(call: Callable[[], Any]) -> Any:
    """The result of a call in a thread of its own.

    Nothing can stop a thread, so one that hangs is left behind: it takes no place of others, and the process does not
    wait for it when it exits.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(found: Any, error: BaseException | None) -> None:
        if not done.done():
            done.set_result(found) if error is None else done.set_exception(error)

    def run() -> None:
        try:
            found, error = call(), None
        except BaseException as raised:
            found, error = None, raised if isinstance(raised, Exception) else RuntimeError(repr(raised))
        if isinstance(error, StopIteration):  # which no future can hold
            error = RuntimeError(repr(error))
        try:
            loop.call_soon_threadsafe(settle, found, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    threading.Thread(target=copy_context().run, args=(run,), name="tool", daemon=True).start()
    return await done


def _with_null(schema: Any) -> Any:
    """The schema with `nullable`, by which transformers marks optional types, in the words of JSON Schema."""
    if isinstance(schema, list):
        return [_with_null(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: value if key in ("enum", "const", "default") else _with_null(value) for key, value in schema.items()}
    if found.pop("nullable", False) is True:
        return {"anyOf": [found, {"type": "null"}]}
    return found

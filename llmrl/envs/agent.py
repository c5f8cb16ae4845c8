"""Any agent as an environment: a program that asks the policy through an OpenAI-compatible endpoint.

    agent          POST base_url/chat/completions {"messages": [...]}      waits                 ...    its result
    environment    tokens that the policy reads            ->  completion  ->  answer            ...    the end

A request is sampled once the one before has been answered; requests of different episodes are sampled together.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from llmrl.data.messages import calls_of
from llmrl.data.tool_calls import UnreadableCallError
from llmrl.envs.agent_contexts import Context, Contexts, Placed
from llmrl.envs.agent_program import AgentFailed, Command, Function, Program, Result
from llmrl.envs.base import AuthorText, Step
from llmrl.envs.chat_requests import AgentRequest, Answer, Finish, call_of
from llmrl.envs.endpoint import Call, Line, endpoint
from llmrl.errors import RecipeError, unknown_name
from llmrl.marks import settings_checked_by, tried_without
from llmrl.pieces import Piece, bind, import_function
from llmrl.request_fields import RequestError
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.types import Prompt

Text = Annotated[str, Field(min_length=1)]
ANY_NUMBER = 2**31


@dataclass(frozen=True, eq=False)
class Asking:
    """A request that the policy answers next, and its place in the episode."""

    call: Call
    placed: Placed

    @property
    def request(self) -> AgentRequest:
        return self.call.request


def _check_agent(
    *, command: Sequence[str] | None, function: str | None, settings: Mapping[str, Any] | None, **others: Any
) -> None:
    if (command is None) == (function is None):
        raise ValueError("expected one of command and function")
    if function is not None:
        _function(function, settings or {})
        return
    if settings:
        raise ValueError("settings: only a function takes some; write a command's into the command")
    assert command is not None
    if shutil.which(command[0]) is None:
        raise ValueError(f"command: no program '{command[0]}' is found")
    for argument in command[1:]:
        if argument.endswith((".py", ".sh", ".js")) and not Path(argument).is_file():
            raise ValueError(f"command: no file '{argument}' is found from {Path.cwd()}")


def _function(place: str, settings: Mapping[str, Any]) -> Piece:
    try:
        return bind(place, import_function(place, "function"), settings, key="function")
    except RecipeError as error:
        raise ValueError("; ".join(error.faults)) from None


@tried_without("an agent is started in training alone")
@settings_checked_by(_check_agent)
def agent(
    prompt: Prompt,
    authors: Mapping[str, AuthorText],
    seed: int,
    *,
    command: Annotated[list[Text], Field(min_length=1)] | None = None,
    function: Text | None = None,
    settings: dict[str, Any] | None = None,
    deadline_seconds: PositiveFloat = 60.0,
    max_calls: PositiveInt = 100,
    max_tokens: PositiveInt | None = None,
    sampling: Literal["recipe", "agent", "refuse"] = "recipe",
) -> Agent:
    """Any agent: a program, or a Python function at `module:function`, that asks the policy through a `base_url`.

    The URL is the episode's own, of an OpenAI-compatible endpoint on this machine. A command finds it in
    OPENAI_BASE_URL and reads the row as JSON from its standard input. A function takes by name what it needs of
    base_url, api_key, model, prompt, messages, row, seed and the row's columns, and has `settings` after the star. The
    result is a text, which rewards read as the answer, a number, which is a reward, or a mapping with answer, reward,
    solved and further numbers; a command prints such a mapping as JSON on its last line. deadline_seconds: of each wait
    for the agent's next request or end. max_calls: the answers that it gets before the episode is truncated.
    max_tokens: of one answer. sampling: whose temperature and top_p count in training where the agent asks for others:
    the recipe's, which is counted, or the agent's; or refuse, by which the episode fails.
    """
    data = {"prompt": prompt.text, "messages": [dict(one) for one in prompt.messages or ()], "row": dict(prompt.row)}
    work = list(command) if command is not None else _function(str(function), settings or {})
    limits = {"deadline_seconds": deadline_seconds, "max_calls": max_calls, "max_tokens": max_tokens}
    return Agent(work, data | {"seed": seed}, authors, sampling=sampling, **limits)


class Agent:
    """One episode of an agent; the settings are those of `agent`. work: a command, or a function."""

    def __init__(
        self,
        work: Sequence[str] | Piece,
        data: Mapping[str, Any],
        authors: Mapping[str, AuthorText],
        *,
        sampling: str,
        deadline_seconds: float,
        max_calls: int,
        max_tokens: int | None,
    ):
        self._work, self._data, self._authors, self._sampling = work, data, authors, sampling
        self._deadline, self._max_calls, self._max_tokens = deadline_seconds, max_calls, max_tokens
        self._name = f"the agent ({work.name if isinstance(work, Piece) else shlex.join(work)})"
        self._contexts = Contexts(authors)
        self._numbers = dict.fromkeys(("calls", "other_sampling", "unmet_tool_choice"), 0)
        self._line: Line | None = None
        self._program: Program | None = None
        self._asking: Asking | None = None

    @property
    def stop(self) -> tuple[str, ...]:
        """The strings that end the answer to the current request."""
        return self._current.request.stop

    @property
    def turn_tokens(self) -> int:
        """The most tokens of that answer."""
        limits = (self._max_tokens, self._current.request.max_tokens)
        return min((limit for limit in limits if limit is not None), default=ANY_NUMBER)

    @property
    def _current(self) -> Asking:
        if self._asking is None:
            raise RuntimeError("no request of the agent waits")
        return self._asking

    def adjusted(self, params: SamplingParams) -> SamplingParams:
        """The parameters with which the current request is answered, given the recipe's.

        Raises ValueError where the recipe refuses those that the agent asks for.
        """
        asked = {name: getattr(self._current.request, name) for name in ("temperature", "top_p")}
        other = {name: one for name, one in asked.items() if one is not None and one != getattr(params, name)}
        if not other or params.evaluating:
            return params
        if self._sampling == "refuse":
            name, value = next(iter(other.items()))
            own = getattr(params, name)
            raise ValueError(f"{self._name} asked for {name} {value:g}, the recipe samples at {own:g}")
        self._numbers["other_sampling"] += 1
        return replace(params, **other) if self._sampling == "agent" else params

    async def reset(self) -> Step:
        self._line = await endpoint().open(list(self._authors))
        self._program = self._started(self._line)
        if await self._next("its start") is not None:
            fault = f"; its last request was refused: {self._line.fault}" if self._line.fault else ""
            raise AgentFailed(f"{self._name} ended and never got an answer of the policy{fault}")
        context = self._current.placed.context
        return Step(context.token_ids, done=False, author=context.author)

    async def step(self, completion: Completion) -> Step:
        answered = self._current
        cut = completion.stop_reason == "length" and len(completion.token_ids) < self.turn_tokens
        self._answer(answered, completion)
        result = await self._next(f"answer {self._numbers['calls']}")
        if result is not None:
            numbers = {**self._counted(), **result.metrics}
            given = {"answer": result.answer, "episode_reward": result.reward, "solved": result.solved}
            return Step([], stop_reason="length" if cut else "environment_ended", metrics=numbers, **given)
        if self._numbers["calls"] >= self._max_calls:
            return Step([], stop_reason="environment_truncated", metrics=self._counted())
        return self._handed_on(answered.placed.context, self._current.placed)

    async def close(self) -> None:
        if self._line is not None:
            await endpoint().close(self._line)
        if self._program is not None:
            await self._program.close()

    def _handed_on(self, before: Context, placed: Placed) -> Step:
        """The step after which the policy answers the request at `placed`."""
        context, known = placed.context, {"done": False, "metrics": self._counted()}
        if (context.author, context.conversation) != (before.author, before.conversation):
            about = {"author": context.author, "compared": context.conversation, "restarts": not placed.begins}
            return Step([], context=context.token_ids, **about, **known)
        if placed.tail is not None and placed.follows is before:
            return Step(placed.tail, **known)
        return Step(context.token_ids, restarts=True, **known)

    def _started(self, line: Line) -> Program:
        given = {"base_url": line.url, "api_key": line.key, "model": line.models[0], **self._data}
        if isinstance(self._work, Piece):
            data = {**self._data["row"], **given}
            for name in self._work.data:
                if name not in data:
                    raise ValueError(unknown_name(self._name, name, data, "data or column"))
            return Function(self._work, data)
        variables = {"OPENAI_BASE_URL": line.url, "OPENAI_API_KEY": line.key}
        variables |= {"LLMRL_BASE_URL": line.url, "LLMRL_MODEL": line.models[0], "LLMRL_SEED": str(self._data["seed"])}
        return Command(self._work, variables, json.dumps(self._data["row"], ensure_ascii=False, default=str))

    async def _next(self, since: str) -> Result | None:
        """The agent's result, or None once a request of it is the current one.

        Raises AgentFailed for an agent that failed, and TimeoutError past the deadline.
        """
        assert self._line is not None and self._program is not None
        try:
            async with asyncio.timeout(self._deadline):
                return await self._asked_or_ended(self._line, self._program)
        except AgentFailed as error:
            raise AgentFailed(f"{self._name} {error}") from None
        except TimeoutError:
            waited = f"{self._deadline:g} s (deadline_seconds) after {since}"
            raise TimeoutError(f"{self._name} has neither asked the policy nor ended {waited}") from None

    async def _asked_or_ended(self, line: Line, program: Program) -> Result | None:
        while True:
            asked = asyncio.ensure_future(line.calls.get())
            try:
                await asyncio.wait({asked, program.ended}, return_when=asyncio.FIRST_COMPLETED)
                if not asked.done():
                    return program.ended.result()
                if self._taken(asked.result()):
                    return None
            finally:
                asked.cancel()

    def _taken(self, call: Call) -> bool:
        """Whether a request can be sampled, as the current one; one that cannot is answered at once."""
        if call.answer.done():  # the agent has hung up
            return False
        author = call.request.model if call.request.model in self._authors else next(iter(self._authors))
        try:
            self._asking = Asking(call, self._contexts.place(call.request, author))
        except RequestError as error:
            call.answer.set_exception(error)
            return False
        return True

    def _answer(self, asking: Asking, completion: Completion) -> None:
        """Tell the agent what was sampled."""
        context, request = asking.placed.context, asking.request
        text = self._authors[context.author]
        said = text.decode(completion.token_ids)
        places = [place for stop in request.stop if (place := said.find(stop)) >= 0]
        content, calls = _read(said[: min(places, default=len(said))], request, text)
        finish: Finish = "tool_calls" if calls else completion.stop_reason
        numbers = len(context.token_ids), len(completion.token_ids)
        context.said, context.told = list(completion.token_ids), Answer(content, finish, calls, *numbers)
        self._numbers["calls"] += 1
        self._numbers["unmet_tool_choice"] += request.tool_choice not in ("auto", "none") and not calls
        if not asking.call.answer.done():
            asking.call.answer.set_result(context.told)

    def _counted(self) -> dict[str, float]:
        refused = self._line.refused if self._line is not None else 0
        return {"refused_requests": float(refused)} | {name: float(one) for name, one in self._numbers.items()}


def _read(said: str, request: AgentRequest, text: AuthorText) -> tuple[str, tuple[Mapping[str, Any], ...]]:
    """The content and the tool calls of an answer; a call that cannot be read is content."""
    if not request.tools or request.tool_choice == "none":
        return said, ()
    try:
        message = text.calls.message(said, request.tools)
    except UnreadableCallError:
        return said, ()
    calls = [call_of(call["name"], call.get("arguments", {})) for call in calls_of(message)]
    return (message["content"], tuple(calls)) if calls else (said, ())

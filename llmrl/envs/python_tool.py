"""A Python interpreter as a tool: the actor writes a program into its answer and reads what it printed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from llmrl.envs.base import Encode, Step
from llmrl.marks import runs_programs
from llmrl.rollout.sampler import Completion
from llmrl.sandbox import Execution, Limits, Program, Sandbox, shared
from llmrl.types import Prompt

Text = Annotated[str, Field(min_length=1)]
Result = TypeVar("Result")
OUTPUT = "{output}"
CUT = " ... "

_THREADS = ThreadPoolExecutor(min(os.cpu_count() or 1, 32), thread_name_prefix="python_tool")
"""One for each program that may run at once; more would only make each other slow."""
_STARTING = threading.Lock()


def _with_output(template: str) -> str:
    if template.count(OUTPUT) != 1:
        raise ValueError(f"expected a text with one {OUTPUT}")
    return template


@runs_programs
def python_tool(
    prompt: Prompt,
    encode: Encode,
    decode: Callable[[list[int]], str],
    *,
    start: Text = "```python\n",
    end: Text = "```",
    result: Annotated[str, AfterValidator(_with_output)] = "\n```output\n{output}\n```\n",
    max_calls: NonNegativeInt = 5,
    reward_ran: float | None = None,
    reward_failed: float | None = None,
    output_characters: PositiveInt = 2000,
    cpu_seconds: PositiveFloat = 5.0,
    wall_seconds: PositiveFloat = 30.0,
    memory_mb: PositiveInt = 512,
    allow_weak: bool = False,
) -> PythonTool:
    """A question that may be answered with the help of programs, run in the sandbox as they are written.

    What stands between `start` and the `end` after it is a program: there the turn ends, and `result` tells its output,
    which is no part of what is trained on. Each program is a fresh one that knows nothing of the ones before; its last
    line is printed too where it is an expression. Output beyond `output_characters` is cut from its middle. A turn
    without a program ends the trajectory, and so does a program after `max_calls` of them, which is not run.
    reward_ran, reward_failed: of a turn whose program ended well and printed something, and of one whose program did
    not; default: no reward. cpu_seconds decides how long a program may run, wall_seconds how long one that waits.
    Source: THOR, arXiv 2509.13761.
    """
    return PythonTool(
        prompt,
        encode,
        decode,
        lambda: _sandbox(allow_weak),
        Limits(cpu_seconds=cpu_seconds, wall_seconds=wall_seconds, memory_mb=memory_mb),
        start=start,
        end=end,
        result=result,
        max_calls=max_calls,
        reward_ran=reward_ran,
        reward_failed=reward_failed,
        output_characters=output_characters,
    )


@dataclass
class PythonTool:
    """One trajectory with the tool; the settings are those of `python_tool`.

    calls: programs run so far. heard: tokens of the turn under way, of which it is known that they hold no program.
    """

    prompt: Prompt
    encode: Encode
    decode: Callable[[list[int]], str]
    sandbox: Callable[[], Sandbox]
    limits: Limits
    start: str
    end: str
    result: str
    max_calls: int
    reward_ran: float | None
    reward_failed: float | None
    output_characters: int
    calls: int = 0
    heard: int = 0

    @property
    def stop(self) -> tuple[str, ...]:
        return (self.end,)

    async def reset(self) -> list[int]:
        await _in_thread(self.sandbox)  # without one, it is not only those who call the tool that fail
        return list(self.prompt.token_ids)

    async def step(self, completion: Completion) -> Step:
        if self.end not in self.decode(completion.token_ids[self.heard :]):
            return Step([])
        program = self._program(self.decode(completion.token_ids))
        if program is None:  # `end` is also how `start` begins, or how some other quotation ends
            self.heard = len(completion.token_ids)
            return Step([], done=False)
        if self.calls == self.max_calls:
            return Step([])
        self.calls, self.heard = self.calls + 1, 0
        source = Program({"source": program}, runner="notebook")
        execution = await _in_thread(lambda: self.sandbox().run(source, self.limits))
        ran = execution.exit_code == 0 and bool(execution.stdout.strip())
        return Step(self._told(execution), self.reward_ran if ran else self.reward_failed, done=False)

    def _program(self, said: str) -> str | None:
        _, started, after = said.partition(self.start)
        program, ended, _ = after.partition(self.end)
        return program if started and ended else None

    def _told(self, execution: Execution) -> list[int]:
        """The observation. What a program prints stays text, also where it is the name of a special token."""
        printed = execution.stdout.decode(errors="replace").strip()
        output = "\n".join(filter(None, [printed, _fault(execution, self.limits)])) or "(no output)"
        if len(output) > self.output_characters:
            head = self.output_characters // 2
            output = output[:head] + CUT + output[len(output) - (self.output_characters - head) :]
        before, after = self.result.split(OUTPUT)
        return self.encode(before, special=True) + self.encode(output) + self.encode(after, special=True)


def _fault(execution: Execution, limits: Limits) -> str:
    """What went wrong, in a line; nothing if nothing did."""
    if execution.ended == "exited":
        if execution.exit_code == 0:
            return ""
        said = execution.stderr.decode(errors="replace").strip().splitlines()
        return said[-1] if said else f"exited with code {execution.exit_code}"
    return {
        "killed": f"killed by signal {execution.signal}",
        "cpu_time": f"timed out after {limits.cpu_seconds:g} s of CPU",
        "wall_time": f"timed out after {limits.wall_seconds:g} s",
        "memory": f"needed more than {limits.memory_mb} MB of memory",
        "processes": f"started more than {limits.processes} processes",
        "output": f"wrote more than {limits.output_kb} KB",
    }[execution.ended]


def _sandbox(allow_weak: bool) -> Sandbox:
    with _STARTING:
        return shared(allow_weak=allow_weak)


async def _in_thread(work: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work)

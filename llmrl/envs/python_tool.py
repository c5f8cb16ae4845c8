"""A Python interpreter as a tool: the actor writes a program into its answer and reads the program's output."""

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
"""One thread for each core: more programs at once would only slow each other down."""
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
    """A question that may be answered with the help of programs, which run in the sandbox as they are written.

    The text between `start` and the next `end` is a program. The turn ends there, and the program's output, in the
    template `result`, is the observation. Each program runs in a fresh interpreter; if its last line is an expression,
    its value is printed. Output beyond `output_characters` is cut from its middle. A turn without a program ends the
    trajectory, and so does a program after `max_calls` of them, which is not run. reward_ran: of a turn whose program
    exited with code 0 and printed something; reward_failed: of a turn with any other program; default: no reward.
    cpu_seconds limits computing, wall_seconds waiting. Source: THOR, arXiv 2509.13761.
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

    calls: programs run so far. heard: tokens of the current turn that are known to hold no program.
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
        await _in_thread(self.sandbox)  # without a sandbox every trajectory fails, not only those that call the tool
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
        """The observation's tokens; a special token's name in a program's output stays plain text."""
        printed = execution.stdout.decode(errors="replace").strip()
        output = "\n".join(filter(None, [printed, _fault(execution, self.limits)])) or "(no output)"
        if len(output) > self.output_characters:
            head = self.output_characters // 2
            output = output[:head] + CUT + output[len(output) - (self.output_characters - head) :]
        before, after = self.result.split(OUTPUT)
        return self.encode(before, special=True) + self.encode(output) + self.encode(after, special=True)


def _fault(execution: Execution, limits: Limits) -> str:
    """The fault of a program's run on one line, empty if there was none."""
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

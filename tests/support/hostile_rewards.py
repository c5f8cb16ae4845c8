"""Reward functions for tests of the real worker pool; most of them misbehave."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from llmrl.marks import reads_answers
from llmrl.types import Group, Score


def length(completion: str) -> float:
    return float(len(completion))


def is_yes(completion: str) -> bool:
    return completion == "yes"


def is_loaded(completion: str) -> bool:
    return completion in sys.modules


def hang_on_hang(completion: str) -> float:
    while completion == "hang":
        pass
    return 1.0


def hang_in_c(completion: str) -> float:
    return float(sum(itertools.repeat(1)))


def exit_on_die(completion: str) -> float:
    if completion == "die":
        os._exit(3)
    return 1.0


def killed(completion: str) -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def fate(completion: str) -> float:
    """Return 1, or do as the completion says."""
    if completion == "exit":
        os._exit(3)
    if completion == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if completion == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while completion in ("hang", "deaf"):
        pass
    return 1.0


def hang_with_a_child(completion: str, file: str) -> float:
    """Start a process, write its id to `file`, and wait for it."""
    child = subprocess.Popen(["sleep", "60"])
    Path(file).write_text(str(child.pid))
    return float(child.wait())


def process_id(completion: str) -> float:
    return float(os.getpid())


def hundred_gigabytes(completion: str) -> float:
    return float(len(bytearray(100 * 10**9)))


def gigabytes_by_steps(completion: str) -> float:
    held = []
    while True:
        held.append(bytearray(50 * 10**6))


class UnpicklableError(Exception):
    def __init__(self, one: int, two: int):
        super().__init__(f"{one} {two}")


def raises_unpicklable(completion: str) -> float:
    raise UnpicklableError(1, 2)


def raises_system_exit(completion: str) -> float:
    sys.exit(4)


def raises_value_error(completion: str) -> float:
    raise ValueError("no such answer")


def returns_by_completion(completion: str) -> object:
    return {"nan": float("nan"), "inf": float("inf"), "none": None, "text": "1.0", "list": [1.0]}[completion]


def returns_lambda(completion: str) -> object:
    return lambda: completion


def once_then_fine(completion: str, counter: str) -> float:
    """End the process at the first call and return a value at the second; the file `counter` counts the calls."""
    path = Path(counter)
    if not path.exists():
        path.touch()
        os._exit(1)
    return 0.5


def ranks(group: Group) -> list[float]:
    """Return each trajectory's rank by length of text, 0 for the shortest."""
    order = sorted(range(len(group.trajectories)), key=lambda index: len(group.trajectories[index].text))
    return [float(order.index(index)) for index in range(len(order))]


def one_too_few(group: Group) -> list[float]:
    return [0.0] * (len(group.trajectories) - 1)


def group_with_nan(group: Group) -> list[float]:
    return [float("nan") if one.text == "nan" else 1.0 for one in group.trajectories]


def everything(completion: str, prompt: str, row: dict, stop_reason: str, completion_tokens: int, points: int) -> float:
    assert (completion, prompt, row["points"], stop_reason) == ("abc", "a prompt", 7, "length")
    return completion_tokens * 100.0 + points


def process_facts(completion: str) -> Score:
    """Return the number of loaded heavy modules as the value; correct: whether this process ignores interrupts."""
    heavy = [name for name in ("torch", "vllm", "transformers") if name in sys.modules]
    return Score(float(len(heavy)), signal.getsignal(signal.SIGINT) == signal.SIG_IGN)


def slow(completion: str, *, seconds: float) -> float:
    time.sleep(seconds)
    return 1.0


def takes_weight(completion: str, *, weight: float) -> float:
    return weight


def group_and_more(group: Group, completion: str) -> list[float]:
    return []


async def waits(completion: str, *, seconds: float = 0.0) -> float:
    await asyncio.sleep(seconds)
    return 2.0


async def async_raises(completion: str) -> float:
    raise KeyError("missing")


def per_turn(completion: str, values: list) -> Score:
    return Score(1.0, turn_values=tuple(values))


def numpy_scalar(completion: str) -> object:
    import numpy

    return numpy.float32(0.5)


def of_maths(completion: str, answer: str) -> float | None:
    return None if completion == "none" else float(completion == answer)


def of_code(completion: str, row: dict) -> float | None:
    return float(completion == row["program"]) if "program" in row else None


def group_of_maths(group: Group) -> list[float | None]:
    return [None if one.text == "none" else 1.0 for one in group.trajectories]


def of_no_row(group: Group) -> None:
    return None


def numpy_verdict(completion: str) -> object:
    import numpy

    return numpy.bool_(completion == "yes")


def _read(completion: str, prompt: str, *, hang_on: str = "") -> str | None:
    while hang_on and completion == f"read {hang_on}":
        pass
    return None if completion.startswith("no") else completion.removeprefix(prompt)


def _same(one: str, other: str, *, hang_on: str = "") -> bool:
    while hang_on and hang_on in (one, other):
        pass
    return float(one) <= float(other) < float(one) + 1  # on purpose not the same in either order


@reads_answers(_read, same=_same)
def near(completion: str, prompt: str = "", *, hang_on: str = "") -> bool:
    return completion == "right"


def says_verdict(completion: str, correct: bool | None) -> float:
    return {True: 1.0, False: -1.0, None: 0.0}[correct]


def verdicts_of_group(group: Group) -> list[float]:
    return [1.0 if one.correct else -1.0 for one in group.trajectories]


def fails_on_bad(completion: str) -> bool:
    return {"good": True}[completion]

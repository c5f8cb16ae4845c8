"""Functions and classes that tests give to models as tools."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any


def add(a: int, b: int = 0) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


async def later(text: str, note: str | None = None) -> dict[str, Any]:
    """Say a text later.

    Args:
        text: what to say
        note: what else
    """
    await asyncio.sleep(0.01)
    return {"said": text, "note": note}


def broken(how: str) -> str:
    """Fail.

    Args:
        how: in which way
    """
    if how == "hang":
        time.sleep(5)
    if how == "exit":
        sys.exit(3)
    raise ZeroDivisionError("no division")


def undocumented(a: int) -> int:
    return a


def untold(a: int) -> int:
    """Say nothing of the argument."""
    return a


class Increment:
    """An environment as TRL has it: the counter has to reach the row's goal."""

    def __init__(self) -> None:
        self.counter, self.goal, self.closed = 0, 0, False

    def reset(self, goal: int, **columns: Any) -> str | None:
        self.goal, self.columns = goal, columns
        return f"Reach {goal}." if goal else None

    def increment(self, step: int) -> str:
        """Add to the counter.

        Args:
            step: how much
        """
        if step > 9:
            raise ValueError("too much")
        self.counter += step
        return str(self.counter)

    async def undo(self) -> bool:
        """Set the counter to 0."""
        self.counter = 0
        return True

    def get_reward(self) -> float:
        return float(self.counter == self.goal)

    def close(self) -> None:
        self.closed = True

    def _hidden(self) -> None: ...


class Other:
    """Another one, whose reward is an attribute."""

    reward = 0.5

    async def reset(self) -> None: ...

    def look(self) -> str:
        """Look round."""
        return "nothing"


class NoReset:
    """No environment."""

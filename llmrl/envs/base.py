"""The Env protocol: what answers a completion. A single question is the one-step case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llmrl.rollout.sampler import Completion


@dataclass(frozen=True)
class Step:
    """An environment's answer: tokens to append (none when done), the reward for the turn just taken."""

    observation: list[int]
    reward: float = 0.0
    done: bool = True


class Env(Protocol):
    """One trajectory's environment: made for one prompt, used once."""

    async def reset(self) -> list[int]:
        """The first observation: the tokens the actor answers."""
        ...

    async def step(self, completion: Completion) -> Step:
        """What the environment says to `completion`."""
        ...

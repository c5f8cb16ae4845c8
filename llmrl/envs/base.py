"""The Env protocol: what answers a completion. A single question is the one-step case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llmrl.rollout.sampler import Completion

ENV_DATA = frozenset({"prompt", "encode", "decode"})
"""What an environment can be made from: the Prompt, an Encode, and `decode`, token ids -> text without special ones."""


class Encode(Protocol):
    """Text -> token ids; the name of a special token is plain text unless `special` is set."""

    def __call__(self, text: str, *, special: bool = False) -> list[int]: ...


@dataclass(frozen=True)
class Step:
    """An environment's answer: tokens to append, the reward for the turn just taken, and whether that was the last.

    observation: none when done; none before that lets the actor go on with the turn. reward: None where the
    environment says nothing of the turn, which is not the same as 0 to a piece that compares turns.
    """

    observation: list[int]
    reward: float | None = None
    done: bool = True


class Env(Protocol):
    """One trajectory's environment: made for one prompt, used once.

    The function that makes it takes, by name, any of ENV_DATA. An environment may have an attribute `stop`, a tuple of
    strings that end a completion besides those of the recipe. The text that matched is part of the completion, and so
    is the rest of the token in which it ends.
    """

    async def reset(self) -> list[int]:
        """The first observation: the tokens the actor answers."""
        ...

    async def step(self, completion: Completion) -> Step:
        """What the environment says to `completion`: all of the turn so far."""
        ...

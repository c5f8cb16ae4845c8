"""A game of two roles with one reward: a speaker passes on a digit that it alone is told, a listener guesses it.

speaker    3>3        both earn 1/2 where the speaker says the digit itself
listener   3?3        both earn 1 where the guess is right; then comes the next digit
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmrl.envs.base import AuthorText
from llmrl.envs.world import Outcome
from llmrl.errors import RecipeError


def games(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with a seed, which decides the digits."""
    return [{"question": ":", "seed": seed * 1_000_000 + number} for number in range(size)]


def relay(authors: Mapping[str, AuthorText], *, rounds: int = 2, digits: int = 3) -> Relay:
    """A game of so many rounds with digits below `digits`; the recipe's first role speaks, the second one listens."""
    if len(authors) != 2:
        raise RecipeError(f"env: relay is played by two roles, got {', '.join(authors)}")
    speaker, listener = authors
    return Relay(speaker, listener, rounds, digits)


class Relay:
    """One game."""

    def __init__(self, speaker: str, listener: str, rounds: int, digits: int):
        self.speaker, self.listener, self.rounds, self.digits = speaker, listener, rounds, digits
        self.secrets: list[str] = []
        self.said: str | None = None
        self.right = 0

    async def reset(self, seed: int) -> Outcome:
        draw = random.Random(seed)
        self.secrets = [str(draw.randrange(self.digits)) for _ in range(self.rounds)]
        return Outcome(f"{self.secrets[0]}>", player=self.speaker, hidden=self.secrets[0], solved=False)

    async def act(self, action: str) -> Outcome:
        if self.said is None:
            self.said = action[:1]
            return Outcome(f"{self.said}?", player=self.listener, reward=0.5 * (self.said == self.secrets[0]))
        secret, said = self.secrets.pop(0), self.said
        right, self.said = action[:1] == secret, None
        self.right += right
        # the listener shares in what the speaker earned, the speaker in what the listener earns
        earned = {"reward": right + 0.5 * (said == secret), "rewards": {self.speaker: float(right)}}
        if not self.secrets:
            return Outcome(terminated=True, solved=self.right == self.rounds, **earned)
        return Outcome(f"{self.secrets[0]}>", player=self.speaker, hidden=self.secrets[0], **earned)

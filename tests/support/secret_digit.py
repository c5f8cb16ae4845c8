"""Copied beside a recipe: a world that hides a digit and says whether a guess was too low; its run may be killed."""

from __future__ import annotations

import os
from dataclasses import dataclass

from interruptions import reach

from llmrl.envs.world import Outcome


def secret_digit(row: dict) -> SecretDigit:
    """One game with the row's digit, in which the text is a digit a turn."""
    return SecretDigit(row["secret"])


@dataclass
class SecretDigit:
    """A reward of 1 for the digit, which ends the game."""

    secret: str

    async def reset(self, seed: int) -> Outcome:
        return Outcome("?", solved=False, hidden=self.secret)

    async def act(self, action: str) -> Outcome:
        reach("act", os.getpid())
        guess = action[:1]
        if guess == self.secret:
            return Outcome(reward=1.0, terminated=True, solved=True)
        return Outcome("+" if guess < self.secret else "-", reward=0.0, solved=False)

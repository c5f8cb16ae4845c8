"""Game, the part that all games share: a World that never waits, with scripted players of several strengths."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, ClassVar

from llmrl.envs.world import Outcome

Player = Callable[[Any, Random], str]
"""A scripted player: the game that it is in, and random numbers, to its next action.

It reads of the game what the game has told, or what follows from that.
"""


class Game(ABC):
    """A game of one episode. players: scripted ones by name: expert, novice and random, from the best to the worst.

    sparse: the reward is 1 for a solved game and 0 for any other, at its end, in place of a reward for each action.
    brief: rules and observations are a few characters, for models that read single characters.
    """

    players: ClassVar[Mapping[str, Player]]
    sparse: bool
    brief: bool

    async def reset(self, seed: int) -> Outcome:
        """The rules and the first observation."""
        return self.begin(Random(seed))

    async def act(self, action: str) -> Outcome:
        """The answer to an action."""
        return self.play(action)

    @abstractmethod
    def begin(self, draw: Random) -> Outcome:
        """Draw a game; returns its opening."""

    @abstractmethod
    def play(self, action: str) -> Outcome:
        """The game's answer to an action, which is invalid if the rules do not allow it."""

    @abstractmethod
    def state(self) -> str:
        """The state in which the next action is taken: equal texts in equal states of games of one seed."""

    def paid(self, *, solved: bool, over: bool) -> float | None:
        """The reward of an action: -1, or 0 if it solved the game; with `sparse` none before the end."""
        if self.sparse:
            return float(solved) if over else None
        return 0.0 if solved else -1.0

    def opened(self, text: str, brief: str, *, hidden: tuple[str, str]) -> Outcome:
        """The opening; hidden: what the game knows and the player is to find out, in a longer and in a short form."""
        return Outcome(self.worded(text, brief), solved=False, state=self.state(), hidden=self.worded(*hidden))

    def refused(self, text: str, brief: str = "!") -> Outcome:
        """The answer to an action that the rules do not allow, which leaves everything as it was."""
        return Outcome(self.worded(text, brief), valid=False, state=self.state())

    def ended(self, *, solved: bool, truncated: bool = False) -> Outcome:
        """The answer to the last action."""
        reward = self.paid(solved=solved, over=True)
        return Outcome(reward=reward, terminated=not truncated, truncated=truncated, solved=solved)

    def went_on(self, text: str, brief: str) -> Outcome:
        """The answer to an action that did not end the game."""
        reward = self.paid(solved=False, over=False)
        return Outcome(self.worded(text, brief), reward=reward, solved=False, state=self.state())

    def worded(self, text: str, brief: str) -> str:
        """The longer text, or with `brief` the short one."""
        return brief if self.brief else text


def normal(action: str) -> str:
    """The action in lower case, its words parted by single spaces, without the signs that end a sentence."""
    return " ".join(action.lower().split()).strip(" .,!?\"'`")

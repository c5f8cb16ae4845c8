"""Guess the number: each guess is answered with higher or lower."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from pydantic import PositiveInt

from llmrl.envs.games.game import Game, Player, normal
from llmrl.envs.world import Outcome

_NUMBER = re.compile(r"(?:guess |is it )?([+-]?\d{1,9})")


def guess_number(
    *, low: int = 1, high: int = 100, most_guesses: PositiveInt | None = None, sparse: bool = False, brief: bool = False
) -> GuessNumber:
    """A hidden number from `low` to `high`, which a wrong guess is told to be higher or lower than.

    Each wrong guess has reward -1, the right one 0. The game is lost after `most_guesses`; default: three more than a
    search by halves needs at most. With `brief` the observations are + (the number is higher) and -. Raises ValueError
    if `high` is not above `low`.
    """
    if high <= low:
        raise ValueError(f"high must be above low, got {low} and {high}")
    return GuessNumber(low, high, most_guesses or (high - low + 1).bit_length() + 3, sparse, brief)


@dataclass
class GuessNumber(Game):
    """One game; least, greatest: the bounds that the answers so far leave."""

    low: int
    high: int
    most_guesses: int
    sparse: bool
    brief: bool
    number: int = 0
    least: int = 0
    greatest: int = 0
    guesses: int = 0

    def begin(self, draw: Random) -> Outcome:
        self.number, self.guesses = draw.randint(self.low, self.high), 0
        self.least, self.greatest = self.low, self.high
        rules = (
            f"I think of a whole number from {self.low} to {self.high}. Guess it: answer with a number, and I say "
            f"whether mine is higher or lower. You have {self.most_guesses} guesses."
        )
        hidden = f"The number is {self.number}.", str(self.number)
        return self.opened(rules, f"{self.low}-{self.high}:", hidden=hidden)

    def play(self, action: str) -> Outcome:
        said = _NUMBER.fullmatch(normal(action))
        guess = int(said[1]) if said else None
        if guess is None or not self.low <= guess <= self.high:
            return self.refused(f"Answer with a whole number from {self.low} to {self.high}.")
        self.guesses += 1
        if guess == self.number or self.guesses == self.most_guesses:
            return self.ended(solved=guess == self.number)
        if guess < self.number:
            self.least = max(self.least, guess + 1)
            return self.went_on("Higher.", "+")
        self.greatest = min(self.greatest, guess - 1)
        return self.went_on("Lower.", "-")

    def state(self) -> str:
        return f"{self.least} to {self.greatest}, {self.most_guesses - self.guesses} guesses left"

    players: ClassVar[Mapping[str, Player]] = {
        "expert": lambda game, draw: str((game.least + game.greatest) // 2),
        "novice": lambda game, draw: str(draw.randint(game.least, game.greatest)),
        "random": lambda game, draw: str(draw.randint(game.low, game.high)),
    }

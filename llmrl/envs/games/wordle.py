"""Wordle: guess a word; each letter of a guess is marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import ClassVar, Literal

from pydantic import PositiveInt

from llmrl.envs.games.game import Game, Player, normal
from llmrl.envs.games.words import WORDS
from llmrl.envs.world import Outcome

GREEN, YELLOW, BLACK = "g", "y", "b"


def wordle(
    *,
    length: Literal[3, 4, 5] = 5,
    words: PositiveInt | None = None,
    most_guesses: PositiveInt = 6,
    any_word: bool = False,
    sparse: bool = False,
    brief: bool = False,
) -> Wordle:
    """A hidden word, of the first `words` of the list of this length, to be guessed from the marks of its letters.

    g: the letter is right in its place; y: the word has it elsewhere; b: it does not have it, or not that often. Each
    wrong guess has reward -1, the right one 0, and the game is lost after `most_guesses`. A guess has to be one of the
    words, unless `any_word` allows any letters. Raises ValueError for fewer than two words.
    """
    listed = WORDS[length][:words]
    if len(listed) < 2:
        raise ValueError("words must be at least 2")
    return Wordle(listed, length, most_guesses, any_word, sparse, brief)


@dataclass
class Wordle(Game):
    """One game; guesses: each with its marks. left: the words that these allow."""

    words: Sequence[str]
    length: int
    most_guesses: int
    any_word: bool
    sparse: bool
    brief: bool
    word: str = ""
    guesses: list[tuple[str, str]] = field(default_factory=list)

    def begin(self, draw: Random) -> Outcome:
        self.word, self.guesses = draw.choice(self.words), []
        rules = (
            f"Guess my word of {self.length} letters. I mark each letter of your guess: {GREEN} if it is right in its "
            f"place, {YELLOW} if my word has it elsewhere, {BLACK} if not. You have {self.most_guesses} guesses."
        )
        return self.opened(rules, "?", hidden=(f"The word is {self.word}.", self.word))

    def play(self, action: str) -> Outcome:
        guess = normal(action)
        allowed = len(guess) == self.length and guess.isascii() and guess.isalpha()
        if not allowed or not (self.any_word or guess in self.words):
            return self.refused(f"Answer with a word of {self.length} letters that is in my list.")
        found = marks(guess, self.word)
        self.guesses.append((guess, found))
        if guess == self.word or len(self.guesses) == self.most_guesses:
            return self.ended(solved=guess == self.word)
        return self.went_on(found, found)

    def state(self) -> str:
        return "; ".join(f"{guess} {found}" for guess, found in sorted(self.guesses)) or "no guesses"

    @property
    def left(self) -> list[str]:
        return [word for word in self.words if all(marks(guess, word) == found for guess, found in self.guesses)]

    players: ClassVar[Mapping[str, Player]] = {
        "expert": lambda game, draw: _most_telling(tuple(game.left)),
        "novice": lambda game, draw: draw.choice(game.left),
        "random": lambda game, draw: draw.choice(game.words),
    }


@lru_cache(maxsize=100_000)
def marks(guess: str, word: str) -> str:
    """The marks of a guess; of a letter that a guess has more often than the word, the last ones are black."""
    spare = Counter(one for one, own in zip(word, guess, strict=True) if one != own)
    found = []
    for one, own in zip(word, guess, strict=True):
        if one == own:
            found.append(GREEN)
        elif spare[own] > 0:
            spare[own] -= 1
            found.append(YELLOW)
        else:
            found.append(BLACK)
    return "".join(found)


@lru_cache(maxsize=4096)
def _most_telling(left: tuple[str, ...]) -> str:
    """Of the words that are left, the guess after which the fewest are left on average."""
    return min(left, key=lambda guess: sum(n * n for n in Counter(marks(guess, word) for word in left).values()))

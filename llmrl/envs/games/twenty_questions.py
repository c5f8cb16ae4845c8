"""Twenty questions: an oracle answers yes or no by a table of twenty things."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Annotated

from pydantic import Field, PositiveInt

from llmrl.envs.games.game import Game, normal
from llmrl.envs.world import Outcome

QUESTIONS: Mapping[str, tuple[str, str]] = {
    "a": ("Is it an animal?", r"animals?|creature"),
    "p": ("Is it a plant?", r"plants?|vegetation"),
    "m": ("Is it made by people?", r"made by|man-?made|artificial|built"),
    "f": ("Can it fly?", r"fly|flies|flying"),
    "w": ("Is it at home in the water?", r"water|swims?|swimming|sea|float"),
    "l": ("Does it have four legs?", r"(?:four|4) legs"),
    "u": ("Does it have fur?", r"fur|furry|hair"),
    "k": ("Do people keep it as a pet?", r"pets?"),
    "h": ("Does it hunt?", r"hunts?|predator|eats? meat"),
    "y": ("Does it lay eggs?", r"eggs?"),
    "b": ("Is it bigger than a person?", r"big|bigger|large|larger"),
    "e": ("Do people eat it?", r"people eat|edible|food"),
    "t": ("Does it have thorns?", r"thorns?|spines?|prickly"),
    "g": ("Is it green?", r"green"),
    "c": ("Does it grow under the ground?", r"under(?: the )?ground|roots?"),
    "r": ("Does it have wheels?", r"wheels?"),
    "o": ("Does it have a motor?", r"motor|engine"),
}
"""The questions by their letters, and the words by which they are told."""

THINGS: Mapping[str, str] = {
    "cat": "alukh", "oak": "pb", "car": "mrob", "shark": "awhb", "rose": "pt", "bicycle": "mr", "eagle": "afhy",
    "apple": "pe", "boat": "mwb", "horse": "alub", "cactus": "ptg", "guitar": "m", "frog": "awlhyg", "carrot": "pec",
    "airplane": "mrobf", "rabbit": "aluk", "penguin": "awhy", "elephant": "alb", "bee": "afy", "spider": "ahy",
}  # fmt: skip
"""The letters of the questions that are answered with yes, for each thing."""

_PATTERNS = {letter: re.compile(rf"\b(?:{words})\b") for letter, (_, words) in QUESTIONS.items()}
_THINGS = {thing: re.compile(rf"\b{thing}s?\b") for thing in THINGS}


def twenty_questions(
    *,
    things: Annotated[int, Field(ge=2, le=len(THINGS))] = len(THINGS),
    most_questions: PositiveInt = 20,
    sparse: bool = False,
    brief: bool = False,
) -> TwentyQuestions:
    """A hidden thing, of the first `things` of twenty, to be found by questions that a scripted oracle answers.

    The oracle knows seventeen properties, by the words of the question. Naming the thing ends the game with reward 0;
    every other question has reward -1, and the game is lost after `most_questions`. With `brief` a question is a
    property's letter, a guess the thing's name, and answers are y and n.
    """
    return TwentyQuestions(tuple(THINGS)[:things], most_questions, sparse, brief)


@dataclass
class TwentyQuestions(Game):
    """One game; left: the things that the answers so far leave."""

    things: Sequence[str]
    most_questions: int
    sparse: bool
    brief: bool
    thing: str = ""
    left: list[str] = field(default_factory=list)
    asked: int = 0

    def begin(self, draw: Random) -> Outcome:
        self.thing, self.left, self.asked = draw.choice(self.things), list(self.things), 0
        rules = (
            f"I think of one of these: {', '.join(self.things)}. Find out which by questions that can be answered with "
            f"yes or no, one at a time, such as {QUESTIONS['a'][0]} or Is it a {self.things[0]}? "
            f"You have {self.most_questions} questions."
        )
        return self.opened(rules, "?", hidden=(f"It is the {self.thing}.", self.thing))

    def play(self, action: str) -> Outcome:
        letter, guess = self._understood(action)
        if letter is None and guess is None:
            return self.refused("I can not answer that. Ask about one property, or name one of the things.")
        self.asked += 1
        if guess == self.thing or self.asked == self.most_questions:
            return self.ended(solved=guess == self.thing)
        if letter is None:
            self.left = [thing for thing in self.left if thing != guess]
            return self.went_on("No.", "n")
        yes = letter in THINGS[self.thing]
        self.left = [thing for thing in self.left if (letter in THINGS[thing]) == yes]
        return self.went_on("Yes.", "y") if yes else self.went_on("No.", "n")

    def _understood(self, action: str) -> tuple[str | None, str | None]:
        """The letter of the question, or the thing that is guessed; neither where it is not clear."""
        said = normal(action)
        if self.brief:
            return (said, None) if said in QUESTIONS else (None, said if said in self.things else None)
        letters = [letter for letter, pattern in _PATTERNS.items() if pattern.search(said)]
        guesses = [thing for thing in self.things if _THINGS[thing].search(said)]
        if len(letters) + len(guesses) != 1:
            return None, None
        return (letters[0], None) if letters else (None, guesses[0])

    def state(self) -> str:
        return f"{', '.join(self.left)}; {self.most_questions - self.asked} questions left"

    def question(self, letter: str) -> str:
        """A property's question as the oracle understands it."""
        return self.worded(QUESTIONS[letter][0], letter)

    def guess(self, thing: str) -> str:
        """A guess as the oracle understands it."""
        return self.worded(f"Is it a {thing}?", thing)

    def telling(self) -> list[str]:
        """The questions whose answer is not known, the one that parts the things most evenly first."""
        yes = {letter: sum(letter in THINGS[thing] for thing in self.left) for letter in QUESTIONS}
        count = len(self.left)
        return sorted((one for one in yes if 0 < yes[one] < count), key=lambda one: abs(2 * yes[one] - count))


def _expert(game: TwentyQuestions, draw: Random) -> str:
    return game.question(game.telling()[0]) if len(game.left) > 2 else game.guess(game.left[0])


def _novice(game: TwentyQuestions, draw: Random) -> str:
    return game.question(draw.choice(game.telling())) if len(game.left) > 2 else game.guess(draw.choice(game.left))


def _random(game: TwentyQuestions, draw: Random) -> str:
    asks = draw.random() < 0.5
    return game.question(draw.choice(list(QUESTIONS))) if asks else game.guess(draw.choice(game.things))


TwentyQuestions.players = {"expert": _expert, "novice": _novice, "random": _random}

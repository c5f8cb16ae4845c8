"""What the golden recipes name: a reward with every kind of outcome, and an environment that answers in between.

The functions import next to nothing, since worker processes import this module too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmrl.envs.base import Step
from llmrl.envs.world import Outcome
from llmrl.marks import gives_grades
from llmrl.types import Prompt, Score

LOW = set("01234")


@gives_grades(4)
async def low_digits(completion: str) -> Score:
    """The answer is right if it begins with a low digit; more of them earn more. `async` keeps it in this process."""
    low = sum(character in LOW for character in completion[:3])
    correct = completion[:1] in LOW
    return Score(float(correct) + 0.25 * low, correct, outcome=("none", "some", "most", "all")[low], grade=low)


async def marked_digits(completion: str) -> Score:
    """Each low digit is good and each other one is bad, in place of a critique that says so."""
    digits = {place: character for place, character in enumerate(completion) if character.isdigit()}
    return Score(0.0, token_values={place: 1.0 if digit in LOW else -1.0 for place, digit in digits.items()})


def prefers_low(a: str, b: str) -> float:
    """The chance that `a`, which begins with more low digits, is better; it is never certain."""
    low = [sum(character in LOW for character in text[:3]) for text in (a, b)]
    return 0.5 + (low[0] - low[1]) / 8


def asks_on(
    prompt: Prompt, encode: Callable[[str], list[int]], decode: Callable[[list[int]], str], *, states: bool = False
) -> AsksOn:
    """The actor's turn ends with a sign; the environment rewards a digit before it and says "7+".

    states: the state is whether a digit was said before; the action is the sign.
    """
    return AsksOn(prompt, encode, decode, states)


@dataclass
class AsksOn:
    """One trajectory; whoever writes no sign has given an answer."""

    prompt: Prompt
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    states: bool = False
    stop: tuple[str, ...] = ("+", "=")

    async def reset(self) -> list[int] | Step:
        start = list(self.prompt.token_ids)
        return Step(start, done=False, state="start") if self.states else start

    async def step(self, completion: Any) -> Step:
        said = self.decode(completion.token_ids)
        if not said.endswith(self.stop):
            return Step([])
        digit = said[-2:-1].isdigit()
        named = {"state": str(digit), "action": said[-1:]} if self.states else {}
        return Step(self.encode("7+"), float(digit), done=False, **named)


def passes_on(authors: Mapping[str, Any]) -> PassesOn:
    """The first role is asked, the second one hears the last character of the answer; both earn what its digits say."""
    return PassesOn(*authors)


@dataclass
class PassesOn:
    """A world of two turns for each role."""

    asked: str
    hears: str
    turns: int = 0

    async def reset(self, seed: int) -> Outcome:
        return Outcome("+", player=self.asked)

    async def act(self, action: str) -> Outcome:
        self.turns += 1
        told, earned = f"{action[-1]}=", float(action[0] in LOW)
        if self.turns % 2:
            return Outcome(told, player=self.hears, reward=earned)
        return Outcome(told, player=self.asked, reward=earned, rewards={self.asked: earned}, terminated=self.turns == 4)

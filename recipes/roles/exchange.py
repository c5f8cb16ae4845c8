"""A toy exchange of two models: one names the larger of two digits, the other says whether that is right.

actor      37>           answers 7
checker    37>7?         answers + for right, - for wrong
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmrl.envs.base import AuthorText, Step
from llmrl.rollout.sampler import Completion
from llmrl.types import Episode, Prompt, Score


def pairs(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with question and answer."""
    draw = random.Random(seed)
    digits = [(draw.randrange(10), draw.randrange(10)) for _ in range(size)]
    return [{"question": f"{a}{b}>", "answer": str(max(a, b))} for a, b in digits]


def exchange(prompt: Prompt, authors: Mapping[str, AuthorText]) -> Exchange:
    """The actor answers the question, then the checker reads question and answer and judges it."""
    return Exchange(prompt, authors)


class Exchange:
    """One question: the actor's turn, then the checker's, in a context of its own."""

    def __init__(self, prompt: Prompt, authors: Mapping[str, AuthorText]):
        self.prompt = prompt
        self.authors = authors
        self.answered = False

    async def reset(self) -> list[int]:
        return list(self.prompt.token_ids)

    async def step(self, completion: Completion) -> Step:
        if self.answered:
            return Step([])
        self.answered = True
        said = self.authors["actor"].decode(completion.token_ids)
        context = self.authors["checker"].encode(f"{self.prompt.text}{said[:1]}?")
        return Step([], done=False, author="checker", context=context)


async def right_answer(completion: str, stop_reason: str, answer: str) -> Score:
    """1 where the actor's answer is right, half of it where more follows."""
    return _score(completion[:1] == answer, stop_reason)


async def right_verdict(completion: str, stop_reason: str, episode: Episode, answer: str) -> Score:
    """1 where the checker's verdict on the actor's answer is right, half of it where more follows."""
    right = episode.of("actor")[0].text[:1] == answer
    return _score(completion[:1] == ("+" if right else "-"), stop_reason)


def _score(correct: bool, stop_reason: str) -> Score:
    return Score(correct * (1.0 if stop_reason == "stop" else 0.5), correct)

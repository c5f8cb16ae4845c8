"""One question, one answer."""

from __future__ import annotations

from llmrl.envs.base import Step
from llmrl.rollout.sampler import Completion
from llmrl.types import Prompt


class SingleTurn:
    """The prompt is the only observation and the first completion ends the trajectory."""

    def __init__(self, prompt: Prompt):
        self.prompt = prompt

    async def reset(self) -> list[int]:
        return list(self.prompt.token_ids)

    async def step(self, completion: Completion) -> Step:
        return Step(observation=[], done=True)


def single_turn(prompt: Prompt) -> SingleTurn:
    """The environment of a plain question."""
    return SingleTurn(prompt)

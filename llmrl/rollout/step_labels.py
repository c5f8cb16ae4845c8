"""Labels of a solution's steps by Monte-Carlo continuations: the share of those from each step's end that are right.

Source: Math-Shepherd, arXiv 2312.08935.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmrl.data.steps import split_steps
from llmrl.models.text import step_ends
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn


@dataclass(frozen=True)
class StepCounts:
    """A solution, and of each step the continuations that were right, that have a verdict, and that have none."""

    steps: Sequence[str]
    successes: Sequence[int]
    samples: Sequence[int]
    failures: Sequence[int]

    def row(self, prompt: Prompt) -> dict[str, Any]:
        """The solution as a row of TRL's stepwise supervision, with hard and soft labels and what they are made of.

        labels: whether any continuation was right; soft_labels: their share; null where none has a verdict.
        """
        pairs = list(zip(self.successes, self.samples, strict=True))
        return {
            "id": prompt.id,
            "prompt": prompt.text if prompt.messages is None else list(prompt.messages),
            "completions": list(self.steps),
            "labels": [None if not samples else successes > 0 for successes, samples in pairs],
            "soft_labels": [None if not samples else successes / samples for successes, samples in pairs],
            "successes": list(self.successes),
            "samples": list(self.samples),
            "failures": list(self.failures),
        }


@dataclass(frozen=True)
class StepLabeller:
    """Samples solutions and continues each of them from the end of every step but the last, whose own verdict counts.

    solutions: of each prompt; continuations: of each step. delimiter: the text that ends a step. params: of sampling;
    max_tokens bounds a solution and its steps' continuations alike. in_flight: the most completions sampled at once.
    """

    author: Author
    params: SamplingParams
    solutions: int
    continuations: int
    delimiter: str
    in_flight: int

    async def label(self, prompts: Sequence[Prompt]) -> list[list[StepCounts]]:
        """The labelled solutions of each prompt; equal seeds and weights give equal ones."""
        places = asyncio.Semaphore(self.in_flight)

        async def of_prompt(prompt: Prompt) -> list[StepCounts]:
            seeds = [derive_seed(self.params.seed, prompt.id, number) for number in range(self.solutions)]
            return list(await asyncio.gather(*(self._solution(prompt, seed, places) for seed in seeds)))

        return list(await asyncio.gather(*map(of_prompt, prompts)))

    async def _solution(self, prompt: Prompt, seed: int, places: asyncio.Semaphore) -> StepCounts:
        whole = await self._continued(prompt, [], seed, places)
        token_ids = whole.turns[0].token_ids
        steps = split_steps(whole.text, self.delimiter)
        ends = step_ends(lambda ids: self.author.text.decode(list(ids)), token_ids, whole.text, steps, self.delimiter)
        numbers = [(place, number) for place in range(len(steps) - 1) for number in range(self.continuations)]
        continued = await asyncio.gather(
            *(
                self._continued(prompt, token_ids[: ends[place] + 1], derive_seed(seed, place, number), places)
                for place, number in numbers
            )
        )
        assert self.author.scorer is not None
        await self.author.scorer.score(Group(prompt, [*continued, whole], ACTOR))
        of_step = [[one for one, (at, _) in zip(continued, numbers, strict=True) if at == n] for n in range(len(steps))]
        of_step[-1] = [whole]
        verdicts = [[one.correct for one in step if one.failure is None] for step in of_step]
        known = [[verdict for verdict in own if verdict is not None] for own in verdicts]
        failures = [len(step) - len(own) for step, own in zip(of_step, known, strict=True)]
        return StepCounts(steps, [sum(own) for own in known], [len(own) for own in known], failures)

    async def _continued(self, prompt: Prompt, begun: list[int], seed: int, places: asyncio.Semaphore) -> Trajectory:
        """A completion that goes on from the tokens `begun`."""
        params = replace(self.params, max_tokens=self.params.max_tokens - len(begun), seed=seed)
        async with places:
            found = await self.author.sampler.sample([*prompt.token_ids, *begun], params)
        token_ids = [*begun, *found.token_ids]
        turn = Turn(ACTOR, token_ids, policy_version=found.policy_version)
        return Trajectory(prompt, [turn], found.stop_reason, text=self.author.text.decode(token_ids))

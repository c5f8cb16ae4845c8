"""A sampler and rewards that follow a script, and a Collector made of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from llmrl.data.stream import PromptStream
from llmrl.envs.single_turn import single_turn
from llmrl.pieces import Piece, bind
from llmrl.rollout.collect import Collector
from llmrl.rollout.group_sampling import Evenly
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.types import Failure, Group, Prompt, Score

PROMPTS = [Prompt(f"p{n}", (3 + n, 4 + n), f"question {n}", {"n": n}) for n in range(10)]
PARAMS = SamplingParams(max_tokens=6, seed=11)


def piece(function: Callable[..., Any], **settings: Any) -> Piece:
    return bind(function.__name__, function, settings, key="test")


class EchoSampler:
    """Answers with three tokens made from the seed, some sooner than others."""

    policy_version = 2

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], SamplingParams]] = []

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        self.asked.append((list(token_ids), params))
        await asyncio.sleep(params.seed % 7 / 1000)
        tokens = [3 + (params.seed >> shift) % 20 for shift in (0, 5, 10)][: params.max_tokens]
        return Completion(tokens, [-token / 10 for token in tokens], "stop", self.policy_version)

    def load_weights(self, weights: Any, policy_version: int) -> None: ...

    def close(self) -> None: ...


class Verdicts:
    """Says of each trajectory, by its prompt's number and its place in the group, whether it is correct."""

    def __init__(self, verdict: Callable[[int, int], bool | Failure] = lambda n, place: place % 2 == 0):
        self._verdict = verdict

    async def score(self, group: Group) -> None:
        for place, trajectory in enumerate(group.trajectories):
            found = self._verdict(group.prompt.row["n"], place)
            if isinstance(found, Failure):
                trajectory.failure, trajectory.reward = found, math.nan
            else:
                trajectory.scores["verifier"] = Score(float(found), found)
                trajectory.scores["length"] = Score(0.5)
                trajectory.reward = float(found) + 0.5


def make(sampler: Any = None, scorer: Any = None, env: Callable[..., Any] = single_turn, **settings: Any) -> Collector:
    return Collector(
        sampler or EchoSampler(),
        scorer or Verdicts(),
        make_env=piece(env),
        encode=lambda text, *, special=False: list(text.encode()),
        decode=lambda token_ids: " ".join(map(str, token_ids)),
        **({"deadline_seconds": 20.0} | settings),
    )


def collect(
    collector: Collector, keep: Piece, *, count: int, max_refills: int = 0, group_size: int = 2, prompts=PROMPTS
):
    stream = PromptStream(prompts, 0, False)
    found = collector.collect(
        stream,
        draw=Evenly(collector, group_size),
        keep=keep,
        count=count,
        max_refills=max_refills,
        params=PARAMS,
    )
    return found, round(stream.epoch * len(prompts))


def ids(groups: list[Group]) -> list[str]:
    return [group.prompt.id for group in groups]

"""Where a step's groups come from: sampled and scored, or read from demonstrations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from llmrl.data.stream import PromptStream
from llmrl.pieces import Piece
from llmrl.recipe import Rollout
from llmrl.rollout.collect import Collected, Collector
from llmrl.rollout.sampler import SamplingParams
from llmrl.types import ACTOR, Group, Trajectory, Turn


class Source(Protocol):
    """Gives each step its groups; `stream` is its place in the data."""

    stream: PromptStream

    def collect(self, seed: int) -> Collected: ...


@dataclass
class Rollouts:
    """Groups sampled from the current policy."""

    stream: PromptStream
    collector: Collector
    keep: Piece
    rollout: Rollout
    stop_token_ids: tuple[int, ...]

    def collect(self, seed: int) -> Collected:
        return self.collector.collect(
            self.stream,
            keep=self.keep,
            count=self.rollout.prompts_per_step,
            group_size=self.rollout.group_size,
            max_refills=self.rollout.max_refills,
            params=sampling_params(self.rollout, self.stop_token_ids, seed),
        )


@dataclass
class Demonstrations:
    """Rows to imitate, as groups of one trajectory whose turn nobody sampled."""

    stream: PromptStream
    token_ids: Mapping[str, list[int]]
    count: int

    def collect(self, seed: int) -> Collected:
        groups = []
        for prompt in self.stream.take(self.count):
            turn = Turn(ACTOR, self.token_ids[prompt.id])
            groups.append(Group(prompt, [Trajectory(prompt, [turn], stop_reason="stop")]))
        lengths = [t.completion_tokens for group in groups for t in group.trajectories]
        return Collected(groups, {"completion_tokens": sum(lengths) / len(lengths)})


def sampling_params(rollout: Rollout, stop_token_ids: tuple[int, ...], seed: int) -> SamplingParams:
    """The recipe's rollout settings as one completion's sampling parameters."""
    return SamplingParams(
        max_tokens=rollout.max_completion_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        stop=tuple(rollout.stop),
        stop_token_ids=stop_token_ids,
        seed=seed,
    )

"""The source of the policy's own samples, which other sources may hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmrl.data.stream import PromptStream
from llmrl.pieces import Piece
from llmrl.recipe import Rollout
from llmrl.rollout.collect import Collected, Collector, SampleGroups
from llmrl.rollout.sampler import SamplingParams


@dataclass
class OfStream:
    """A source whose only state is the position in its stream of prompts."""

    stream: PromptStream

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)


@dataclass
class Rollouts(OfStream):
    """Groups sampled from the current policy."""

    collector: Collector
    sample_groups: SampleGroups
    keep: Mapping[str, Piece]
    rollout: Rollout
    params: Callable[[int], SamplingParams]

    def collect(self, seed: int) -> Collected:
        return self.collector.collect(
            self.stream,
            sample_groups=self.sample_groups,
            keep=self.keep,
            count=self.stream.coming(self.rollout.prompts_per_step),
            max_refills=self.rollout.max_refills,
            params=self.params(seed),
        )

"""Where a step's groups come from: sampled and scored, or read from demonstrations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from llmrl.data.stream import PromptStream
from llmrl.errors import RunStopped
from llmrl.pieces import Piece
from llmrl.recipe import Rollout
from llmrl.rollout.collect import Collected, Collector, Draw
from llmrl.rollout.group_sampling import WithStaticValues
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.run_folder.atomic import partial_of, publish, writing
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn


class Source(Protocol):
    """Gives each step its groups; `stream` is its place in the data."""

    stream: PromptStream

    def collect(self, seed: int) -> Collected: ...


@dataclass
class Rollouts:
    """Groups sampled from the current policy."""

    stream: PromptStream
    collector: Collector
    draw: Draw
    keep: Piece
    rollout: Rollout
    stop_token_ids: tuple[int, ...]

    def collect(self, seed: int) -> Collected:
        return self.collector.collect(
            self.stream,
            draw=self.draw,
            keep=self.keep,
            count=self.rollout.prompts_per_step,
            max_refills=self.rollout.max_refills,
            params=sampling_params(self.rollout, self.stop_token_ids, seed),
        )


@dataclass
class StaticValues:
    """The mean reward of the stage's first policy on each prompt, measured once, before the first step.

    They are kept in `file`, so that a resumed run goes on with the same ones.
    """

    rollouts: Rollouts
    file: Path
    writes: bool
    values: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rollouts.draw = WithStaticValues(self.rollouts.draw, self.values)

    def prepare(
        self, *, steps: int, seed: int, first_policy: bool, record: Callable[[list[Group]], None] = lambda groups: None
    ) -> None:
        """Read them, or measure them on the prompts of the next `steps` steps and one refill of each.

        first_policy: whether the sampler still holds the weights that the stage started with. record: gets what was
        sampled, before the file is there. Raises RunStopped if the file is gone and the policy was trained.
        """
        if self.file.is_file():
            self.values.update(json.loads(self.file.read_text(encoding="utf-8")))
            return
        if not first_policy:
            raise RunStopped(f"{self.file} is gone: static values cannot be measured once the policy was trained")
        rollout, stream = self.rollouts.rollout, self.rollouts.stream
        state = stream.state_dict()
        prompts = unique(stream.take(min(2 * steps * rollout.prompts_per_step, len(stream.prompts))))
        stream.load_state_dict(state)
        groups: list[Group] = []
        for start in range(0, len(prompts), rollout.prompts_per_step):  # as many as a step has, each in its deadline
            part, place = prompts[start : start + rollout.prompts_per_step], derive_seed(seed, "static values", start)
            params = sampling_params(rollout, self.rollouts.stop_token_ids, place)
            groups += self.rollouts.collector.sample(part, group_size=rollout.static_samples, params=params)
        for group in groups:
            rewards = [t.reward for t in group.trajectories if not t.failure]
            if rewards:
                self.values[group.prompt.id] = sum(rewards) / len(rewards)
        record(groups)
        if self.writes:
            with writing("the static values", self.file.parent.parent):
                self.file.parent.mkdir(exist_ok=True)
                partial_of(self.file).write_text(json.dumps(self.values), encoding="utf-8")
                publish(self.file)


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


def unique(prompts: list[Prompt]) -> list[Prompt]:
    """The prompts without repetitions, in order."""
    return list({prompt.id: prompt for prompt in prompts}.values())


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

"""Measurements that providers make once, before a stage's first step; the run folder keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from llmrl.data.stream import PromptStream
from llmrl.errors import RunStopped
from llmrl.pieces import Piece
from llmrl.recipe import Rollout
from llmrl.rollout.collect import Collector
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.run_folder.atomic import partial_of, publish, writing
from llmrl.types import Group, Prompt


@dataclass
class MeasuredOnce:
    """Each provider's values by its name; `folder` keeps them for resumed runs."""

    folder: Path
    stage: str
    providers: Sequence[Piece]
    collector: Collector
    params: Callable[[int], SamplingParams]
    rollout: Rollout
    writes: bool
    values: dict[str, dict[str, float]] = field(default_factory=dict)

    def measure(
        self,
        stream: PromptStream,
        *,
        steps: int,
        seed: int,
        first_policy: bool,
        record: Callable[[list[Group]], None] = lambda groups: None,
    ) -> None:
        """Read the kept values; measure missing ones on the prompts of the next `steps` steps and one refill of each.

        first_policy: whether the sampler still holds the weights that the stage started with. record: is given the
        sampled groups before the file is published. Raises RunStopped if a file is gone and the policy was trained.
        """
        for provider in self.providers:
            file = self.folder / f"{self.stage}-{provider.name}.json"
            if file.is_file():
                self.values[provider.name] = json.loads(file.read_text(encoding="utf-8"))
                continue
            if not first_policy:
                raise RunStopped(f"{file} is gone: {provider.name} cannot be measured once the policy was trained")
            prompts = self._coming(stream, steps)
            sample = partial(self._sample, seed=seed, what=provider.name.replace("_", " "))
            measured, groups = provider.mark("measured_once_by")(prompts, sample, **provider.settings)
            self.values[provider.name] = measured
            record(groups)
            if self.writes:
                with writing(f"what {provider.name} measured", self.folder.parent):
                    self.folder.mkdir(exist_ok=True)
                    partial_of(file).write_text(json.dumps(measured), encoding="utf-8")
                    publish(file)

    def _coming(self, stream: PromptStream, steps: int) -> list[Prompt]:
        """The prompts that the stage will ask, without repetitions; the stream stays where it is."""
        state = stream.state_dict()
        taken = stream.take(min(2 * steps * self.rollout.prompts_per_step, len(stream.prompts)))
        stream.load_state_dict(state)
        return list({prompt.id: prompt for prompt in taken}.values())

    def _sample(self, prompts: Sequence[Prompt], *, group_size: int, seed: int, what: str) -> list[Group]:
        """The groups of `prompts`, sampled in parts of a step's size, each with its own deadline."""
        groups: list[Group] = []
        for start in range(0, len(prompts), self.rollout.prompts_per_step):
            part = prompts[start : start + self.rollout.prompts_per_step]
            params = self.params(derive_seed(seed, what, start))
            groups += self.collector.sample(part, group_size=group_size, params=params)
        return groups

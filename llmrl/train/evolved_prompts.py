"""Prompts that evolve with the policy: those from which it can learn most are rewritten into new ones (eva)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from llmrl.data.asker import Asker
from llmrl.data.stream import PromptStream
from llmrl.errors import RecipeError, unknown_name
from llmrl.pieces import Piece
from llmrl.recipe import Rollout
from llmrl.rewards.base import Rewards
from llmrl.rewards.proposals import Informativeness, informativeness
from llmrl.rewards.rubric import NoteRubric, rubric_of
from llmrl.rollout.collect import Collected, Collector, SampleGroups
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.types import Group, Prompt

Share = Annotated[float, Field(ge=0.0, le=1.0)]


def evolved_prompts(
    stream: PromptStream,
    collector: Collector,
    sample_groups: SampleGroups,
    keep: Mapping[str, Piece],
    rollout: Rollout,
    params: Callable[[int], SamplingParams],
    asker: Asker,
    *,
    rubric: NoteRubric,
    role: str | None = None,
    share: Share = 0.5,
    parents: PositiveInt = 8,
    children: PositiveInt = 1,
    informativeness: Informativeness = "range",
    least_best: float | None = None,
    pool: PositiveInt = 1024,
    max_tokens: PositiveInt = 256,
    temperature: PositiveFloat = 1.0,
    first_step: NonNegativeInt = 0,
) -> EvolvedPrompts:
    """The policy's own samples for prompts of the data and for prompts that evolve from them (eva, arXiv 2411.00062).

    After each step `parents` of its prompts are drawn, with a chance in proportion to how much their rewards tell, and
    `role` (default: the policy) writes `children` new ones of each, as the rubric with {prompt} asks.

        range: max r - min r        advantage: max r - mean r        variance: mean of (r - mean r)^2

    share: of a step's prompts that are evolved ones, as far as there are some; each is asked once, and may be a parent.
    least_best: a prompt on which no sample earns more than this is no parent; default: each may be. pool: evolved
    prompts that wait; the oldest are dropped. first_step: steps before the first prompts evolve. A new prompt has its
    parent's row without the gold answer. Raises RecipeError for a reward that reads it, and for an unknown role.
    """
    if role is not None and role not in collector.authors:
        raise RecipeError(unknown_name("learn_from.evolved_prompts.role", role, collector.authors, "role"))
    scorer = collector.authors[collector.first].scorer
    reading = [one.name for one in (scorer.rewards if isinstance(scorer, Rewards) else ()) if "answer" in one.columns]
    if reading:
        raise RecipeError(
            f"learn_from: evolved_prompts asks questions without a gold answer, but rewards.{reading[0]} reads the "
            "column 'answer'; score by a judge, a reward model or a function of the prompt"
        )
    evolution = Evolution(rubric, role, parents, children, informativeness, least_best, max_tokens, temperature)
    sampling = {"sample_groups": sample_groups, "keep": keep, "params": params, "rollout": rollout}
    return EvolvedPrompts(stream, collector, asker, evolution, share, pool, first_step, **sampling)


@dataclass(frozen=True)
class Evolution:
    """How prompts evolve: see evolved_prompts."""

    rubric: str
    role: str | None
    parents: int
    children: int
    informativeness: Informativeness
    least_best: float | None
    max_tokens: int
    temperature: float

    def drawn(self, groups: Sequence[Group], seed: int) -> list[Prompt]:
        """The parents of the next prompts: different ones, each drawn with a chance in proportion to what it tells."""
        rewards = {group.prompt.id: (group.prompt, _rewards(group)) for group in groups}
        told = [
            (informativeness(known, self.informativeness), prompt)
            for prompt, known in rewards.values()
            if known and (self.least_best is None or max(known) > self.least_best)
        ]
        draw, left, found = random.Random(seed), [one for one in told if one[0] > 0], []
        while left and len(found) < self.parents:
            chosen = draw.choices(range(len(left)), [weight for weight, _ in left])[0]
            found.append(left.pop(chosen)[1])
        return found


@dataclass
class EvolvedPrompts:
    """A source of samples; its state has the evolved prompts as texts, with the rows that they share.

    waiting: evolved prompts, oldest first, that are asked next. made: how many have been made so far.
    """

    stream: PromptStream
    collector: Collector
    asker: Asker
    evolution: Evolution
    share: float
    pool: int
    first_step: int
    sample_groups: SampleGroups
    keep: Mapping[str, Piece]
    params: Callable[[int], SamplingParams]
    rollout: Rollout
    waiting: list[Prompt] = field(default_factory=list)
    made: int = 0
    step: int = 0

    def collect(self, seed: int) -> Collected:
        found = self.collector.collect(
            self,
            sample_groups=self.sample_groups,
            keep=self.keep,
            count=self.rollout.prompts_per_step,
            max_refills=self.rollout.max_refills,
            params=self.params(seed),
        )
        self.step += 1
        own = [group for group in found.sampled if group.author == self.collector.first]
        told = [informativeness(known, self.evolution.informativeness) for one in own if (known := _rewards(one))]
        asked = sum(_is_evolved(group.prompt) for group in own)
        parents = self.evolution.drawn(own, derive_seed(seed, "parents")) if self.step > self.first_step else []
        made = self._evolve(parents, derive_seed(seed, "children")) if parents else []
        metrics = {
            "evolved/asked": asked / max(len(own), 1),
            "evolved/made": float(len(made)),
            "evolved/refused": float(len(parents) * self.evolution.children - len(made)),
            "evolved/waiting": float(len(self.waiting)),
            "evolved/informativeness": sum(told) / max(len(told), 1),
        }
        return replace(found, metrics=found.metrics | metrics)

    def take(self, n: int) -> list[Prompt]:
        """The next prompts: evolved ones for the share of them, as far as they go, then the data's."""
        count = min(round(self.share * n), len(self.waiting))
        evolved, self.waiting = self.waiting[:count], self.waiting[count:]
        return [*evolved, *self.stream.take(n - count)] if count < n else evolved

    def _evolve(self, parents: Sequence[Prompt], seed: int) -> list[Prompt]:
        """Have new prompts written, and add those that can be asked and are new to the waiting ones."""
        rubric = rubric_of(self.evolution.rubric)
        each = [parent for parent in parents for _ in range(self.evolution.children)]
        filled = [rubric.fill({**parent.row, "prompt": self.asker.question(parent)}) for parent in each]
        tasks = [self.asker.ask(text, parent, "") for text, parent in zip(filled, each, strict=True)]
        possible = [(task, parent) for task, parent in zip(tasks, each, strict=True) if task]
        writer = self.params(seed).of(self.evolution.role or self.collector.first)
        longest = min(self.evolution.max_tokens, self.rollout.max_completion_tokens)
        asking = replace(writer, max_tokens=longest, temperature=self.evolution.temperature, others={})
        written = self.collector.write([task for task, _ in possible], asking, self.evolution.role)
        known = {self.asker.question(one) for one in (*self.waiting, *parents)}
        made: list[Prompt] = []
        for one, (_, parent) in zip(written, possible, strict=True):
            text = "" if one.stop_reason == "length" else one.text.strip()  # half a question is none
            prompt = self.asker.ask(text, parent, f"{self.made}{EVOLVED}{parent.id.rpartition(EVOLVED)[2]}")
            if prompt and self.asker.question(prompt) not in known:
                known.add(self.asker.question(prompt))
                made.append(prompt)
                self.made += 1
        self.waiting = [*self.waiting, *made][-self.pool :]
        return made

    def state_dict(self) -> dict[str, Any]:
        waiting = [(one.id, self.asker.question(one)) for one in self.waiting]
        return {"stream": self.stream.state_dict(), "waiting": waiting, "made": self.made, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state["stream"])
        rows = {prompt.id: prompt for prompt in self.stream.prompts}
        again = [self.asker.ask(text, rows[name.rpartition(EVOLVED)[2]], name) for name, text in state["waiting"]]
        self.waiting = [prompt for prompt in again if prompt]
        self.made, self.step = state["made"], state["step"]


EVOLVED = " of "
"""Stands in the id of an evolved prompt before that of the row that it goes back to."""


def _is_evolved(prompt: Prompt) -> bool:
    return EVOLVED in prompt.id


def _rewards(group: Group) -> list[float]:
    return [one.reward for one in group.trajectories if not one.failure]

"""Pairs without a judge: the policy is asked for a better and for a worse answer, and by how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeFloat, PositiveInt

from llmrl.data.asker import Asker
from llmrl.data.stream import PromptStream
from llmrl.errors import RunStopped
from llmrl.marks import brings
from llmrl.recipe import Rollout
from llmrl.rewards.rubric import NoteRubric, rubric_of
from llmrl.rollout.collect import Collected, Collector
from llmrl.rollout.sampler import SamplingParams
from llmrl.types import Group, Prompt, Trajectory, Turn


def _asks_for_quality(path: str) -> str:
    lacking = [f"{{{name}}}" for name in ("prompt", "quality") if name not in rubric_of(path).columns]
    if lacking:
        raise ValueError(f"the rubric '{path}' does not have {' and '.join(lacking)} in its text")
    return path


@brings("rewards")
def prompted_pairs(
    stream: PromptStream,
    collector: Collector,
    rollout: Rollout,
    params: Callable[[int], SamplingParams],
    asker: Asker,
    author: str,
    *,
    rubric: Annotated[NoteRubric, AfterValidator(_asks_for_quality)],
    best: float = 10.0,
    gap: NonNegativeFloat = 8.0,
    last_gap: NonNegativeFloat = 2.0,
    shrinks_over: PositiveInt = 100,
) -> PromptedPairs:
    """Pairs of the policy's own answers, of which one was asked to be better: no judge and no reward.

        chosen: an answer of quality `best`        rejected: one of quality best - g, both as whole numbers
        g goes from `gap` to `last_gap` over `shrinks_over` steps, so that the rejected answers become harder to tell

    rubric: a text with {prompt} and {quality} that asks for an answer of that quality. The pair's prompt is the row's
    own, without that request. Answers that are cut short or equal make no pair. Source: arXiv 2409.17534.
    """
    return PromptedPairs(stream, collector, rollout, params, asker, author, rubric, best, gap, last_gap, shrinks_over)


@dataclass
class PromptedPairs:
    """A source of pairs that nobody scores; step: how many it has made, which decides the gap."""

    stream: PromptStream
    collector: Collector
    rollout: Rollout
    params: Callable[[int], SamplingParams]
    asker: Asker
    author: str
    rubric: str
    best: float
    gap: float
    last_gap: float
    shrinks_over: int
    step: int = 0

    def collect(self, seed: int) -> Collected:
        gap = gap_at(self.step, self.gap, self.last_gap, self.shrinks_over)
        self.step += 1
        prompts = self.stream.take(self.rollout.prompts_per_step)
        asked = [(prompt, self._asked(prompt, self.best), self._asked(prompt, self.best - gap)) for prompt in prompts]
        possible = [(prompt, [better, worse]) for prompt, better, worse in asked if better and worse]
        tasks = [task for _, both in possible for task in both]
        written = self.collector.write(tasks, self.params(seed), self.author)
        sides = zip(written[::2], written[1::2], strict=True)
        pairs = [self._pair(prompt, *both) for (prompt, _), both in zip(possible, sides, strict=True)]
        groups = [pair for pair in pairs if pair]
        if not groups:
            raise RunStopped(
                f"learn_from: prompted_pairs made no pair of {len(prompts)} prompts: answers were cut short or equal, "
                "or the questions for them are longer than rollout.max_prompt_tokens"
            )
        lengths = [one.completion_tokens for group in groups for one in group.trajectories]
        metrics = {
            "prompted/gap": gap,
            "prompted/pairs": len(groups) / len(prompts),
            "completion_tokens": sum(lengths) / len(lengths),
        }
        return Collected(groups, metrics, groups)

    def _asked(self, prompt: Prompt, quality: float) -> Prompt | None:
        columns = {**prompt.row, "prompt": self.asker.question(prompt), "quality": str(round(quality))}
        return self.asker.ask(rubric_of(self.rubric).fill(columns), prompt, prompt.id)

    def _pair(self, prompt: Prompt, better: Trajectory, worse: Trajectory) -> Group | None:
        """The two answers after the row's own prompt, as nobody sampled them there; None without a contrast."""
        cut = any(one.stop_reason == "length" for one in (better, worse))
        if cut or better.turns[0].token_ids == worse.turns[0].token_ids:
            return None
        written = [
            replace(one, prompt=prompt, turns=[Turn(self.author, one.turns[0].token_ids, text=one.text)], reward=reward)
            for one, reward in ((better, 1.0), (worse, 0.0))
        ]
        return Group(prompt, written, self.author)

    def state_dict(self) -> dict[str, Any]:
        return {"stream": self.stream.state_dict(), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state["stream"])
        self.step = state["step"]


def gap_at(step: int, first: float, last: float, steps: int) -> float:
    """The gap in the quality that is asked for: linear from the first to the last over these steps, then the last."""
    return last if step >= steps else first + (last - first) * step / steps

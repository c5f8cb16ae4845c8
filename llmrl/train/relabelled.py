"""Attempts that a critiquer judges, and whose goals it corrects in hindsight, to imitate: SELU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from llmrl.data.asker import Asker
from llmrl.data.stream import PromptStream
from llmrl.envs.base import AuthorText
from llmrl.errors import RecipeError, RunStopped, unknown_name
from llmrl.marks import brings
from llmrl.recipe import Rollout
from llmrl.rewards.verdicts import written_label
from llmrl.rollout.collect import Collected, Collector, SampleGroups
from llmrl.rollout.measure import metrics_of
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.templates import RowTemplate, Template
from llmrl.types import DATASET, Group, Prompt, Trajectory, Turn

NonEmpty = Annotated[str, Field(min_length=1)]


@brings("rewards")
def relabelled(
    stream: PromptStream,
    collector: Collector,
    sample_groups: SampleGroups,
    rollout: Rollout,
    params: Callable[[int], SamplingParams],
    asker: Asker,
    author: str,
    *,
    ask: Template,
    critiquer: str | None = None,
    review: Template | None = None,
    critique: str = "critique",
    success: NonEmpty = "Success",
    failure: NonEmpty = "Failure",
    marker: NonEmpty = "Goal:",
) -> Relabelled:
    """Attempts that a critiquer takes for successful, and failed ones under the goal that they reached instead (SELU,
    arXiv 2410.03303): no reward is needed.

        most critiques of an attempt say [[Success]]    its question -> attempt; the critiquer: these critiques
        most say [[Failure]]                            the critiquer: these critiques; and if they name a goal,
                                                        `ask` of the goal -> attempt; `review` of both -> [[Success]]

    The recipe's moves are an attempt by the first role, and critiques of it, of which several are the critiquer's
    questions to itself. critique: their move. ask: the question that a goal makes, a template of columns and {goal};
    the goal is what follows the last `marker` on its line, of several critiques the most frequent one. critiquer: a
    trained role that imitates its own critiques, and the verdict after `review`, a template with {goal} and {attempt}.
    An attempt whose critiques say neither, or both equally often, is dropped. success, failure: the two labels.
    """
    if critiquer is not None and critiquer not in collector.authors:
        raise RecipeError(unknown_name("learn_from.relabelled.critiquer", critiquer, collector.authors, "role"))
    if (critiquer is None) != (review is None):
        raise RecipeError("learn_from.relabelled: critiquer and review need each other; set both or none")
    hindsight = Hindsight(critique, success, failure, marker)
    sampling = (stream, collector, sample_groups, rollout, params, asker)
    return Relabelled(*sampling, author, ask, critiquer, review, hindsight)


@dataclass(frozen=True)
class Judgement:
    """The opinion of an attempt's critiques. critiques: those that say so; goal: the one that it reached instead."""

    success: bool
    critiques: list[Trajectory]
    goal: str | None = None


@dataclass(frozen=True)
class Hindsight:
    """Reads critiques; see relabelled."""

    critique: str
    success: str
    failure: str
    marker: str

    def judged(self, attempt: Trajectory) -> Judgement | None:
        """The opinion of most critiques; None if none has a verdict, or as many say one thing as the other."""
        given = [one for one in attempt.children if one.move == self.critique and one.failure is None]
        labels = (self.success, self.failure)
        said = {label: [one for one in given if written_label(one.text, labels) == label] for label in labels}
        good, bad = said[self.success], said[self.failure]
        if len(good) == len(bad):
            return None
        if len(good) > len(bad):
            return Judgement(True, good)
        goals = Counter(goal for one in bad if (goal := self.goal(one.text)))
        return Judgement(False, bad, goals.most_common(1)[0][0] if goals else None)

    def goal(self, text: str) -> str:
        """The goal that a critique names; empty without one."""
        _, found, after = text.rpartition(self.marker)
        return after.split("\n")[0].strip() if found else ""


@dataclass
class Relabelled:
    """A source of attempts with verdicts and goals; see relabelled."""

    stream: PromptStream
    collector: Collector
    sample_groups: SampleGroups
    rollout: Rollout
    params: Callable[[int], SamplingParams]
    asker: Asker
    author: str
    ask: str
    critiquer: str | None
    review: str | None
    hindsight: Hindsight

    def collect(self, seed: int) -> Collected:
        sampled: list[Group] = []
        groups: list[Group] = []
        counts: Counter[str] = Counter()
        for refill in range(self.rollout.max_refills + 1):
            prompts = self.stream.take(self.rollout.prompts_per_step)
            new = self.sample_groups(prompts, self.params(derive_seed(seed, "attempts", refill)))
            sampled += new
            attempts = [
                one for group in new for one in group.trajectories if one.parent is None and one.author == self.author
            ]
            groups += [made for one in attempts if not one.failure for made in self._made(one, counts)]
            if groups:
                break
        if not groups:
            raise RunStopped(
                f"learn_from: relabelled: of {counts['attempts']} attempts none was called a success or got another "
                f"goal; {counts['undecided']} have no verdict that most critiques share"
            )
        shares = {name: counts[name] / counts["attempts"] for name in ("successes", "relabelled", "undecided")}
        known = metrics_of(sampled, groups, list(self.collector.authors), 1.0)
        return Collected(groups, known | {f"hindsight/{name}": share for name, share in shares.items()}, sampled)

    def _made(self, attempt: Trajectory, counts: Counter[str]) -> list[Group]:
        """The groups that are imitated of an attempt, by the actor and by the critiquer."""
        counts["attempts"] += 1
        found = self.hindsight.judged(attempt)
        if found is None:
            counts["undecided"] += 1
            return []
        own = [_alone(one.prompt, one) for one in found.critiques] if self.critiquer else []
        if found.success:
            counts["successes"] += 1
            return [_alone(attempt.prompt, attempt), *own]
        row = attempt.prompt.row
        question = RowTemplate(self.ask).fill({**row, "goal": found.goal or ""})
        asked = self.asker.ask(question, attempt.prompt, attempt.prompt.id) if found.goal else None
        if not asked:
            return own
        counts["relabelled"] += 1
        return [_alone(asked, attempt), *own, *self._reviewed(attempt, str(found.goal))]

    def _reviewed(self, attempt: Trajectory, goal: str) -> list[Group]:
        """The critiquer's verdict on an attempt at the goal that it reached."""
        if self.critiquer is None or self.review is None:
            return []
        text: AuthorText = self.collector.authors[self.critiquer].text
        filled = RowTemplate(self.review).fill({**attempt.prompt.row, "goal": goal, "attempt": attempt.text})
        chat = attempt.prompt.messages is not None
        context = text.chat([{"role": "user", "content": filled}]) if chat else text.plain(filled)
        if len(context) > self.rollout.max_prompt_tokens:
            return []
        prompt = replace(attempt.prompt, token_ids=tuple(context), text=text.decode(context))
        said = f"[[{self.hindsight.success}]]"
        tokens = [*text.encode(said), *text.end]
        return [_group(prompt, [Turn(self.critiquer, tokens, text=said)], self.critiquer)]

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)


def _alone(prompt: Prompt, written: Trajectory) -> Group:
    """A trajectory's turns after a prompt, as nobody sampled them there."""
    turns = [Turn(turn.author, turn.token_ids, text=turn.text) for turn in written.turns]
    return _group(prompt, turns, written.author)


def _group(prompt: Prompt, turns: Sequence[Turn], author: str) -> Group:
    return Group(
        prompt, [Trajectory(prompt, list(turns), "stop", turns[-1].text, author=author, writer=DATASET)], author
    )

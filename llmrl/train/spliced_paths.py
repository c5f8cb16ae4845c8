"""Paths that go wrong, are revised, and go on as a better path does, to imitate: Agent-R and MMC."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, Field, PositiveInt

from llmrl.data.asker import Asker
from llmrl.data.stream import PromptStream
from llmrl.envs.base import AuthorText
from llmrl.errors import RecipeError, RunStopped, unknown_name
from llmrl.marks import brings
from llmrl.recipe import Rollout
from llmrl.rewards.rubric import NoteRubric, rubric_of
from llmrl.rewards.verdicts import written_label
from llmrl.rollout.collect import Collected, Collector, SampleGroups
from llmrl.rollout.measure import metrics_of
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.train.paths import Pair, pairs_of, splice, steps_of
from llmrl.types import DATASET, ENVIRONMENT, Group, Prompt, Trajectory, Turn

Texts = Annotated[list[str], Field(min_length=1)]
NonEmpty = Annotated[str, Field(min_length=1)]
CRITIQUE = "{critique}"


def _with_critique(template: str) -> str:
    if template.count(CRITIQUE) != 1:
        raise ValueError(f"expected a text with one {CRITIQUE}")
    return template


@dataclass(frozen=True)
class Revision:
    """How a worse path is left.

    cut: its last step that is read; between: the steps after that; taught: what a critiquer imitates of it.
    """

    cut: int
    between: list[Turn]
    taught: Group | None = None


class Revise(Protocol):
    """Decides where worse paths are left and what is said there, with metrics; None for a pair that is dropped."""

    def __call__(
        self, pairs: Sequence[Pair], params: SamplingParams
    ) -> tuple[list[Revision | None], dict[str, float]]: ...


def spliced_paths(
    stream: PromptStream,
    collector: Collector,
    sample_groups: SampleGroups,
    rollout: Rollout,
    params: Callable[[int], SamplingParams],
    asker: Asker,
    author: str,
    *,
    flag: NoteRubric,
    revisions: Texts,
    reply: str = "",
    separator: NonEmpty | None = None,
    labels: tuple[str, ...] = ("Good", "Bad", "Uncertain"),
    bad: str = "Bad",
    keep_unflagged: bool = True,
    least_good: float = 0.5,
    least_gap: float = 0.2,
    with_good: bool = True,
    flag_tokens: PositiveInt = 64,
) -> SplicedPaths:
    """Own paths that went wrong, up to the first step that the policy itself finds bad, a revision, and the end of a
    better path (Agent-R, arXiv 2501.11425).

        worse path, read alone | revision, learned | reply, read | better path after what the two share, learned

    Pairs are the best path of a group and each worse one, where the best's reward is above `least_good` and the gap
    above `least_gap`. flag: a rubric with {path}, the steps before, and {action}, a step, which asks the policy for one
    of the labels as [[Bad]]; `bad` is the one that ends the worse path. A path without such a step is read to its end,
    or, without keep_unflagged, dropped. revisions: texts of which one is drawn; reply: what the environment says to it.
    Both may name special tokens, such as those that end a turn. separator: what ends a step inside an author's turn;
    default: a step is a turn. with_good: imitate the better paths too. A spliced path of more than
    rollout.max_completion_tokens is dropped.
    """
    text = collector.authors[author].text
    flags = Flags(collector, asker, text, author, flag, tuple(labels), bad, keep_unflagged, flag_tokens)
    revise = OwnRevisions(flags, text, author, tuple(revisions), reply)
    settings = (least_good, least_gap, separator, with_good)
    return SplicedPaths(stream, collector, sample_groups, rollout, params, author, revise, *settings)


@brings("rewards")
def criticized_paths(
    stream: PromptStream,
    collector: Collector,
    sample_groups: SampleGroups,
    rollout: Rollout,
    params: Callable[[int], SamplingParams],
    asker: Asker,
    author: str,
    *,
    annotator: str,
    compare: NoteRubric,
    critiquer: str | None = None,
    review: NoteRubric = "{prompt}{path}{action}",
    critique: Annotated[str, AfterValidator(_with_critique)] = CRITIQUE,
    separator: NonEmpty | None = None,
    least_good: float = 0.5,
    least_gap: float = 0.2,
    with_good: bool = True,
) -> SplicedPaths:
    """Own paths up to the step in which a worse one parts from a better one, a critique of that step, and the end of
    the better path; and the critique as a demonstration for a critiquer (MMC).

        shared steps and the worse one's next, read alone | critique, read | the better path's rest, learned

    annotator: the role that writes the critique, as the rubric `compare` asks, of {path}, the shared steps, {action},
    the worse path's next step, {bad} and {good}, the rests of both. critiquer: a trained role that imitates the
    critique after the rubric `review`, which shows no better path. critique: how the actor reads {critique}; it may
    name special tokens. An empty critique, or one that is cut short, drops its pair. Others: see spliced_paths.
    Source: MMC, Iterative Refinement of VLM Reasoning via MCTS-based Multimodal Critique; its tree search is a group of
    samples here.
    """
    for key, role in (("annotator", annotator), ("critiquer", critiquer)):
        if role is not None and role not in collector.authors:
            raise RecipeError(unknown_name(f"learn_from.criticized_paths.{key}", role, collector.authors, "role"))
    if collector.authors[author].scorer is None:
        raise RecipeError(f"learn_from: criticized_paths compares paths by rewards, and {author} has none")
    revise = Critiques(collector, asker, author, annotator, compare, critiquer, review, critique)
    settings = (least_good, least_gap, separator, with_good)
    return SplicedPaths(stream, collector, sample_groups, rollout, params, author, revise, *settings)


@dataclass(frozen=True)
class Flags:
    """Asks a role which steps of a worse path are bad; see spliced_paths."""

    collector: Collector
    asker: Asker
    text: AuthorText
    author: str
    rubric: str
    labels: tuple[str, ...]
    bad: str
    keep_unflagged: bool
    max_tokens: int

    def cuts(self, pairs: Sequence[Pair], params: SamplingParams) -> tuple[list[int | None], float]:
        """The first bad step of each pair, None for one that is dropped; and the share of pairs with a bad step."""
        places = [(number, step) for number, pair in enumerate(pairs) for step in pair.actions]
        asked = [self._asked(pairs[number], step) for number, step in places]
        possible = [(prompt, place) for prompt, place in zip(asked, places, strict=True) if prompt]
        own = params.of(self.author)
        asking = replace(own, max_tokens=min(self.max_tokens, own.max_tokens), others={})
        said = self.collector.write([prompt for prompt, _ in possible], asking, self.author)
        bad: dict[int, int] = {}
        for one, (_, (number, step)) in zip(said, possible, strict=True):
            if written_label(one.text, self.labels) == self.bad:
                bad.setdefault(number, step)
        whole = [pair.actions[-1] if self.keep_unflagged and pair.actions else None for pair in pairs]
        return [bad.get(number, end) for number, end in enumerate(whole)], len(bad) / max(len(pairs), 1)

    def _asked(self, pair: Pair, step: int) -> Prompt | None:
        path = "".join(turn.text for turn in pair.bad[:step])
        columns = {**pair.prompt.row, "prompt": self.asker.question(pair.prompt), "path": path}
        return self.asker.ask(rubric_of(self.rubric).fill({**columns, "action": pair.bad[step].text}), pair.prompt, "")


@dataclass(frozen=True)
class OwnRevisions:
    """The policy flags its own steps, and a drawn text says that it revises them."""

    flags: Flags
    text: AuthorText
    author: str
    revisions: tuple[str, ...]
    reply: str

    def __call__(self, pairs: Sequence[Pair], params: SamplingParams) -> tuple[list[Revision | None], dict[str, float]]:
        cuts, flagged = self.flags.cuts(pairs, params)
        draw = random.Random(derive_seed(params.seed, "revisions"))
        said = [draw.choice(self.revisions) for _ in pairs]
        found = [
            None if cut is None else Revision(cut, self._between(one)) for cut, one in zip(cuts, said, strict=True)
        ]
        return found, {"spliced/flagged": flagged}

    def _between(self, said: str) -> list[Turn]:
        turns = [Turn(self.author, self.text.encode(said, special=True), text=said)]
        if self.reply:
            turns.append(Turn(ENVIRONMENT, self.text.encode(self.reply, special=True), text=self.reply))
        return turns


@dataclass(frozen=True)
class Critiques:
    """A role criticizes the step in which a worse path parts from a better one; see criticized_paths."""

    collector: Collector
    asker: Asker
    author: str
    annotator: str
    compare: str
    critiquer: str | None
    review: str
    critique: str

    def __call__(self, pairs: Sequence[Pair], params: SamplingParams) -> tuple[list[Revision | None], dict[str, float]]:
        asked = [self._asked(self.compare, pair) for pair in pairs]
        written = iter(self.collector.write([one for one in asked if one], params, self.annotator))
        said = [next(written) if prompt else None for prompt in asked]
        texts = [one.text.strip() if one and one.stop_reason != "length" else "" for one in said]
        found = [self._revision(pair, text) if text else None for pair, text in zip(pairs, texts, strict=True)]
        return found, {"spliced/criticized": sum(map(bool, texts)) / len(pairs)}

    def _asked(self, rubric: str, pair: Pair) -> Prompt | None:
        """The question about a pair; None without a worse step, and for one that is too long."""
        if not pair.actions:
            return None
        place = pair.actions[0]
        shown = {"path": pair.bad[:place], "bad": pair.bad[place:], "good": pair.good[pair.begin :]}
        columns = {name: "".join(turn.text for turn in turns) for name, turns in shown.items()}
        question = self.asker.question(pair.prompt)
        row = {**pair.prompt.row, **columns, "prompt": question, "action": pair.bad[place].text}
        return self.asker.ask(rubric_of(rubric).fill(row), pair.prompt, pair.prompt.id)

    def _revision(self, pair: Pair, said: str) -> Revision:
        encode = self.collector.authors[self.author].text.encode
        before, after = self.critique.split(CRITIQUE)
        tokens = [*encode(before, special=True), *encode(said), *encode(after, special=True)]
        read = Turn(ENVIRONMENT, tokens, text=f"{before}{said}{after}")
        return Revision(pair.actions[0], [read], self._taught(pair, said))

    def _taught(self, pair: Pair, said: str) -> Group | None:
        """The critique as its critiquer should write it."""
        prompt = self._asked(self.review, pair) if self.critiquer else None
        if self.critiquer is None or prompt is None:
            return None
        text = self.collector.authors[self.critiquer].text
        tokens = [*text.encode(said), *text.end]
        turn = Turn(self.critiquer, tokens, text=said)
        written = Trajectory(prompt, [turn], "stop", said, author=self.critiquer, writer=DATASET)
        return Group(prompt, [written], self.critiquer)


@dataclass
class SplicedPaths:
    """A source of spliced paths; see spliced_paths and criticized_paths."""

    stream: PromptStream
    collector: Collector
    sample_groups: SampleGroups
    rollout: Rollout
    params: Callable[[int], SamplingParams]
    author: str
    revise: Revise
    least_good: float
    least_gap: float
    separator: str | None
    with_good: bool

    def collect(self, seed: int) -> Collected:
        sampled: list[Group] = []
        pairs: list[Pair] = []
        for refill in range(self.rollout.max_refills + 1):
            prompts = self.stream.take(self.rollout.prompts_per_step)
            sampled += self.sample_groups(prompts, self.params(derive_seed(seed, "paths", refill)))
            pairs = [pair for group in sampled if group.author == self.author for pair in self._pairs(group)]
            if pairs:
                break
        if not pairs:
            raise RunStopped(
                f"learn_from: no path was better than another by over {self.least_gap:g} in {len(sampled)} groups; "
                "lower least_good or least_gap, or sample more"
            )
        revised, metrics = self.revise(pairs, self.params(derive_seed(seed, "revise")))
        stops = self.params(seed).of(self.author).stop_token_ids if self.separator else ()
        spliced = [
            (self._trajectory(pair.prompt, splice(pair, one.cut, one.between, stops)), one)
            for pair, one in zip(pairs, revised, strict=True)
            if one
        ]
        fitting = [(path, one) for path, one in spliced if self._fits(path)]
        groups = [Group(path.prompt, [path], self.author) for path, _ in fitting]
        groups += [one.taught for _, one in fitting if one.taught]
        groups += self._good(pairs) if self.with_good else []
        if not groups:
            raise RunStopped(f"learn_from: of {len(pairs)} pairs of paths none was kept; see the metrics spliced/...")
        metrics |= {
            "spliced/pairs": float(len(pairs)),
            "spliced/kept": len(fitting) / len(pairs),
            "spliced/too_long": (len(spliced) - len(fitting)) / len(pairs),
        }
        known = metrics_of(sampled, groups, list(self.collector.authors), 1.0)
        return Collected(groups, known | metrics, sampled)

    def _pairs(self, group: Group) -> list[Pair]:
        decode, separator = self.collector.authors[self.author].text.decode, self.separator
        return pairs_of(
            group,
            least_good=self.least_good,
            least_gap=self.least_gap,
            steps=lambda one: steps_of(one, separator, lambda tokens: decode(list(tokens))),
        )

    def _trajectory(self, prompt: Prompt, turns: list[Turn]) -> Trajectory:
        return Trajectory(prompt, turns, "stop", turns[-1].text, author=self.author, writer=DATASET)

    def _fits(self, path: Trajectory) -> bool:
        return sum(len(turn.token_ids) for turn in path.turns) <= self.rollout.max_completion_tokens

    def _good(self, pairs: Sequence[Pair]) -> list[Group]:
        """The better paths, each once."""
        better = {id(pair.good): pair for pair in pairs}.values()
        paths = [
            self._trajectory(one.prompt, [Turn(turn.author, turn.token_ids, text=turn.text) for turn in one.good])
            for one in better
        ]
        return [Group(path.prompt, [path], self.author) for path in paths]

    def state_dict(self) -> dict[str, Any]:
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state)

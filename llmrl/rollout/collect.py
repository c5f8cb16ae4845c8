"""Collecting scored groups: environments run against the samplers, rewards run while others still generate."""

from __future__ import annotations

import asyncio
import itertools
import math
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from llmrl.data.written import Written
from llmrl.errors import RunStopped
from llmrl.pieces import Piece
from llmrl.recipe_turns import Turns
from llmrl.rollout.measure import metrics_of
from llmrl.rollout.moves import Asked, Asking, Moves
from llmrl.rollout.play import Author, Player, counted
from llmrl.rollout.sampler import SamplingParams, derive_seed
from llmrl.types import DATASET, POLICY, Episode, Group, Prompt, Trajectory, Turn, groups_of


class Prompts(Protocol):
    """Hands out prompts in their order; every rank's copy hands out the same."""

    def take(self, n: int) -> list[Prompt]: ...


Gather = Callable[[Any, str], list[Any]]
SampleGroups = Callable[[Sequence[Prompt], SamplingParams], list[Group]]
"""Samples and scores the groups of a round's prompts; see llmrl/rollout/group_sampling.py."""


@dataclass
class Collected:
    """The groups to train on, metrics over all sampled groups, and these groups themselves, with failures and with
    the trajectories that `keep` dropped."""

    groups: list[Group]
    metrics: dict[str, float] = field(default_factory=dict)
    sampled: list[Group] = field(default_factory=list)


class Collector:
    """Samples and scores groups with one rank's samplers; with more ranks each takes its share of the prompts.

    authors: the roles that write, by name; the first one answers the question. deadline_seconds: for one call of
    `sample`, scoring included. env_retries: how often an episode whose environment failed is started anew. micro_group:
    the most completions of a prompt that are sampled at once. turns: how those of a world are taken. moves: the
    recipe's, which are played in place of the environment. written: the completions of rows by prompt id, for groups in
    which the dataset writes. gather: returns every rank's object, in rank order.
    """

    def __init__(
        self,
        authors: Mapping[str, Author],
        *,
        make_env: Piece,
        deadline_seconds: float,
        env_retries: int = 1,
        max_prompt_tokens: int | None = None,
        micro_group: int | None = None,
        turns: Turns | None = None,
        moves: Sequence[Asked] = (),
        written: Mapping[str, Sequence[Written]] | None = None,
        rank: int = 0,
        ranks: int = 1,
        gather: Gather = lambda thing, phase: [thing],
    ):
        self.authors = dict(authors)
        self.first = next(iter(authors))
        self._player = Player(
            self.authors, make_env, retries=env_retries, max_prompt_tokens=max_prompt_tokens, turns=turns
        )
        self._moves = Moves(self.authors, moves, max_prompt_tokens=max_prompt_tokens) if moves else None
        self._deadline = deadline_seconds
        self._micro_group = micro_group
        self._written = written or {}
        self._rank, self._ranks, self._gather = rank, ranks, gather
        self._runner = asyncio.Runner()

    def collect(
        self,
        prompts: Prompts,
        *,
        sample_groups: SampleGroups,
        keep: Mapping[str, Piece],
        count: int,
        max_refills: int,
        params: SamplingParams,
    ) -> Collected:
        """Groups of `count` questions of which `keep` leaves something; others are replaced, `max_refills` times.

        sample_groups: samples the prompts of a round. keep: the keep function of every author that is trained.
        params.seed: the step's seed, from which every completion's seed is derived. Raises RunStopped if nothing is
        left after the last round, or if a round passes its deadline.
        """
        questions: list[list[Group]] = []
        sampled: list[Group] = []
        started = time.monotonic()
        for refill in range(max_refills + 1):
            asked = prompts.take(count - len(questions))
            groups = sample_groups(asked, replace(params, seed=derive_seed(params.seed, refill)))
            sampled += groups
            for _, of_question in itertools.groupby(groups, key=lambda group: group.place):
                chosen = [left for group in of_question if (left := self._learned(group, keep)).trajectories]
                if chosen:
                    questions.append(chosen)
            if len(questions) >= count:
                break
        if not questions:
            unwritten = self._moves.unwritten(sampled, keep) if self._moves is not None else []
            why = _why_nothing(sampled, keep, unwritten)
            raise RunStopped(f"nothing to train on after {max_refills + 1} rounds of {count} prompts; {why}")
        seconds, groups = time.monotonic() - started, [group for chosen in questions for group in chosen]
        return Collected(groups, metrics_of(sampled, groups, list(self.authors), seconds), sampled)

    def _learned(self, group: Group, keep: Mapping[str, Piece]) -> Group:
        """The part of a group that is trained on: nothing of a move that is not learned from."""
        if self._moves is not None and group.trajectories and not self._moves.learned_from(group.trajectories[0]):
            return replace(group, trajectories=[])
        return kept(group, keep)

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        group_size: int | Sequence[int],
        params: SamplingParams,
        writers: Sequence[str] = (),
        begun: Sequence[int] | None = None,
    ) -> list[Group]:
        """The scored groups of each prompt, in order, over all ranks; the first author has at least one for each.

        group_size: episodes of every prompt, or each prompt's own number, which may be 0. params.max_tokens bounds all
        tokens after an author's prompt. A completion's seed depends on params.seed, the prompt's place in `prompts`,
        the episode and the turn, so a prompt that is given twice is sampled twice. writers: of further completions of
        every prompt, which are scored in the same group; the dataset writes those of the row that have the highest
        rewards. begun: how many trees of moves each prompt has already, which these are beside. Raises RunStopped past
        the deadline; after any error the collector is closed.
        """
        sizes = [group_size] * len(prompts) if isinstance(group_size, int) else group_size
        before = begun or [0] * len(prompts)
        mine = list(zip(range(len(prompts)), prompts, sizes, before, strict=True))[self._rank :: self._ranks]
        try:
            groups = self._runner.run(self._within_deadline(mine, params, writers), context=copy_context())
        except BaseException:
            self.close()
            raise
        parts = self._gather(groups, "collecting rollouts")
        return [one for index in range(len(prompts)) for one in parts[index % self._ranks][index // self._ranks]]

    def write(self, prompts: Sequence[Prompt], params: SamplingParams, author: str | None = None) -> list[Trajectory]:
        """A completion of each prompt by an author, the first one by default: no environment, and no rewards.

        It is what a source asks for beside the questions that are trained on. Raises RunStopped past the deadline.
        """
        name = author or self.first
        own, sampler, text = params.of(name), self.authors[name].sampler, self.authors[name].text

        async def one(place: int, prompt: Prompt) -> Trajectory:
            seed = derive_seed(params.seed, "write", place)
            found = await sampler.sample(list(prompt.token_ids), replace(own, seed=seed))
            turn = Turn(name, found.token_ids, [], found.policy_version, text=text.decode(found.token_ids))
            return Trajectory(prompt, [turn], found.stop_reason, turn.text, author=name)

        async def every() -> list[Trajectory]:
            mine = list(enumerate(prompts))[self._rank :: self._ranks]
            async with asyncio.timeout(self._deadline):
                return list(await asyncio.gather(*(one(*each) for each in mine)))

        try:
            parts = self._gather(self._runner.run(every(), context=copy_context()), "writing beside the questions")
        except TimeoutError:
            self.close()
            message = f"writing {len(prompts)} texts beside the questions passed its deadline of {self._deadline:g} s"
            raise RunStopped(f"rank {self._rank}: {message} (rollout.deadline_seconds)") from None
        return [parts[index % self._ranks][index // self._ranks] for index in range(len(prompts))]

    def close(self) -> None:
        """Cancel the calls under way; the samplers stay open."""
        self._runner.close()

    async def _within_deadline(
        self, prompts: Sequence[tuple[int, Prompt, int, int]], params: SamplingParams, others: Sequence[str]
    ) -> list[list[Group]]:
        waiting: Counter[str] = Counter()

        def question(place: int, prompt: Prompt, size: int, begun: int) -> Awaitable[list[Group]]:
            own = replace(params, seed=derive_seed(params.seed, place))
            return self._question(place, prompt, [*[POLICY] * size, *others], own, waiting, begun)

        work = asyncio.gather(*(question(*one) for one in prompts))
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # or asyncio reports it
        await asyncio.wait([work], timeout=self._deadline)
        if work.done():
            return work.result()
        named = ", ".join(f"{count} x {who}" for who, count in waiting.items() if count) or "the event loop"
        raise RunStopped(
            f"rank {self._rank}: sampling and scoring {len(prompts)} prompts passed its deadline of "
            f"{self._deadline:g} s (rollout.deadline_seconds); still waiting for {named}"
        )

    async def _question(
        self,
        place: int,
        prompt: Prompt,
        writers: Sequence[str],
        params: SamplingParams,
        waiting: Counter[str],
        begun: int,
    ) -> list[Group]:
        sampling = [writer for writer in writers if writer != DATASET]
        if self._moves is not None:
            places = asyncio.Semaphore(self._micro_group or sys.maxsize)
            episodes = await self._moves.episodes(Asking(prompt, params, waiting, places), len(sampling), begun)
            return await self._scored(prompt, episodes, place, waiting)
        places = asyncio.Semaphore(self._micro_group or max(len(sampling), 1))

        async def episode(number: int, writer: str) -> Episode:
            async with places:
                own = replace(params, seed=derive_seed(params.seed, number))
                return await self._player.episode(prompt, number, own, waiting, writer)

        episodes = await asyncio.gather(*itertools.starmap(episode, enumerate(sampling)))
        episodes += self._of_row(prompt, writers.count(DATASET), len(sampling))
        return await self._scored(prompt, episodes, place, waiting)

    async def _scored(
        self, prompt: Prompt, episodes: Sequence[Episode], place: int, waiting: Counter[str]
    ) -> list[Group]:
        """The groups of a question's episodes, scored.

        Rewards that read verdicts are asked once all others have answered, first of the texts that nothing follows, so
        that a text's reward may read the rewards of what follows it.
        """
        groups = [group for name in self.authors for group in groups_of(prompt, episodes, name, place)]
        if not any(group.author == self.first for group in groups):
            groups.insert(0, Group(prompt, [], self.first, place))
        await asyncio.gather(*(self._score(group, waiting, begins=True) for group in groups))
        for _, level in itertools.groupby(sorted(groups, key=_depth, reverse=True), key=_depth):
            await asyncio.gather(*(self._score(group, waiting, begins=False) for group in level))
        return groups

    def _of_row(self, prompt: Prompt, count: int, first: int) -> list[Episode]:
        """The row's `count` completions of the highest rewards as episodes, whose numbers begin with `first`."""
        best = sorted(self._written.get(prompt.id, ()), key=lambda one: -one.reward)[:count]
        episodes = []
        for number, written in enumerate(best, first):
            episode = Episode(prompt, number=number)
            trajectory = written.trajectory(prompt, self.first)
            trajectory.text = self.authors[self.first].text.decode(trajectory.own_turns[-1].token_ids)
            trajectory.episode = episode
            episode.trajectories.append(trajectory)
            episodes.append(episode)
        return episodes

    async def _score(self, group: Group, waiting: Counter[str], *, begins: bool) -> None:
        scorer = self.authors[group.author].scorer
        scorable = replace(group, trajectories=[t for t in group.trajectories if not t.failure])
        if scorer and scorable.trajectories:
            await counted(waiting, "rewards", scorer.begin(scorable) if begins else scorer.score(scorable))


def _depth(group: Group) -> int:
    """How many texts lead to a group's trajectories, themselves included; 0 for an empty group."""
    return max((len(one.path) for one in group.trajectories), default=0)


def kept(group: Group, keep: Mapping[str, Piece]) -> Group:
    """The group with the trajectories that its author's keep function leaves; none of an untrained author.

    Raises RunStopped if the function raises, or gives anything but trajectories of the group.
    """
    scored = replace(group, trajectories=[t for t in group.trajectories if not t.failure])
    if group.author not in keep or not scored.trajectories:
        return replace(group, trajectories=[])
    piece = keep[group.author]
    unknown = dict.fromkeys(piece.data, math.nan)
    try:
        given = piece(unknown | group.known | {"group": scored})
        left = list(given) if isinstance(given, Iterable) else None
    except Exception as error:  # a user's function may raise anything
        raise RunStopped(f"keep: {piece.name}: {type(error).__name__}: {error}") from error
    if left is None:
        raise RunStopped(f"keep: {piece.name}: gave {type(given).__name__}, expected a list of trajectories")
    if bad := [one for one in left if not any(one is own for own in scored.trajectories)]:
        other = "a trajectory of no such group" if isinstance(bad[0], Trajectory) else type(bad[0]).__name__
        raise RunStopped(f"keep: {piece.name}: gave {other}, expected trajectories of the group")
    return replace(group, trajectories=left)


def _why_nothing(sampled: Sequence[Group], keep: Mapping[str, Piece], unwritten: Sequence[str]) -> str:
    failures = [t.failure for group in sampled for t in group.trajectories if t.failure]
    if failures:
        reason = Counter(f"{f.source} {f.kind}: {f.message}" for f in failures).most_common(1)[0][0]
        return f"most common failure: {reason}"
    if unwritten:
        return f"nothing was written of {', '.join(unwritten)}: see `choose` and `parts` of the moves on the way there"
    return f"`keep: {', '.join(piece.name for piece in keep.values())}` dropped every group"

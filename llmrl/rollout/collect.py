"""Collecting scored groups: environments run against the samplers, rewards run while others still generate."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from llmrl.envs.base import AuthorText, Env, Step
from llmrl.errors import RunStopped
from llmrl.pieces import Piece
from llmrl.rollout.measure import metrics_of
from llmrl.rollout.sampler import Completion, Sampler, SamplingParams, derive_seed
from llmrl.types import ENVIRONMENT, Episode, Failure, Group, Prompt, Trajectory, Turn, groups_of


class Scorer(Protocol):
    """Fills in a group's scores, rewards and failures."""

    async def score(self, group: Group) -> None: ...


class Prompts(Protocol):
    """Hands out prompts in their order; every rank's copy hands out the same."""

    def take(self, n: int) -> list[Prompt]: ...


Gather = Callable[[Any, str], list[Any]]
SampleGroups = Callable[[Sequence[Prompt], SamplingParams], list[Group]]
"""Samples and scores the groups of a round's prompts; see llmrl/rollout/group_sampling.py."""


@dataclass(frozen=True)
class Author:
    """A role in the collector: its sampler, the scorer of its trajectories, or None, and its text conversions."""

    sampler: Sampler
    scorer: Scorer | None
    text: AuthorText


@dataclass
class Collected:
    """The groups to train on, metrics over all sampled groups, and these groups themselves, with failures and with
    the trajectories that `keep` dropped."""

    groups: list[Group]
    metrics: dict[str, float] = field(default_factory=dict)
    sampled: list[Group] = field(default_factory=list)


@dataclass
class Stream:
    """One author's unfinished trajectory in an episode.

    context: all tokens before the author's current turn. limit: the most tokens of the context and the turn together.
    """

    trajectory: Trajectory
    context: list[int]
    turn: Turn
    limit: int


class EnvironmentFailed(Exception):
    """An exception of a user's environment, which becomes a failure of its episode."""

    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.failure = failure


class Collector:
    """Samples and scores groups with one rank's samplers; with more ranks each takes its share of the prompts.

    authors: the roles that write, by name; the first one answers the question. deadline_seconds: for one call of
    `sample`, scoring included. env_retries: how often an episode whose environment failed is started anew. gather:
    returns every rank's object, in rank order.
    """

    def __init__(
        self,
        authors: Mapping[str, Author],
        *,
        make_env: Piece,
        deadline_seconds: float,
        env_retries: int = 1,
        rank: int = 0,
        ranks: int = 1,
        gather: Gather = lambda thing, phase: [thing],
    ):
        self.authors = dict(authors)
        self.first = next(iter(authors))
        self._make_env = make_env
        texts = {name: author.text for name, author in authors.items()}
        self._text = {"encode": texts[self.first].encode, "decode": texts[self.first].decode, "authors": texts}
        self._deadline = deadline_seconds
        self._env_retries = env_retries
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
        kept: list[list[Group]] = []
        sampled: list[Group] = []
        started = time.monotonic()
        for refill in range(max_refills + 1):
            asked = prompts.take(count - len(kept))
            groups = sample_groups(asked, replace(params, seed=derive_seed(params.seed, refill)))
            sampled += groups
            for _, of_question in itertools.groupby(groups, key=lambda group: group.place):
                chosen = [left for group in of_question if (left := _kept(group, keep)).trajectories]
                if chosen:
                    kept.append(chosen)
            if len(kept) >= count:
                break
        if not kept:
            raise RunStopped(
                f"nothing to train on after {max_refills + 1} rounds of {count} prompts; {_why_nothing(sampled, keep)}"
            )
        seconds, groups = time.monotonic() - started, [group for chosen in kept for group in chosen]
        return Collected(groups, metrics_of(sampled, groups, list(self.authors), seconds), sampled)

    def sample(
        self, prompts: Sequence[Prompt], *, group_size: int | Sequence[int], params: SamplingParams
    ) -> list[Group]:
        """The scored groups of each prompt, in order, over all ranks; the first author has at least one for each.

        group_size: episodes of every prompt, or each prompt's own number, which may be 0. params.max_tokens bounds all
        tokens after an author's prompt. A completion's seed depends on params.seed, the prompt's place in `prompts`,
        the episode and the turn, so a prompt that is given twice is sampled twice. Raises RunStopped past the deadline;
        after any error the collector is closed.
        """
        sizes = [group_size] * len(prompts) if isinstance(group_size, int) else group_size
        mine = list(zip(range(len(prompts)), prompts, sizes, strict=True))[self._rank :: self._ranks]
        try:
            groups = self._runner.run(self._within_deadline(mine, params))
        except BaseException:
            self.close()
            raise
        parts = self._gather(groups, "collecting rollouts")
        return [one for index in range(len(prompts)) for one in parts[index % self._ranks][index // self._ranks]]

    def close(self) -> None:
        """Cancel the calls under way; the samplers stay open."""
        self._runner.close()

    async def _within_deadline(
        self, prompts: Sequence[tuple[int, Prompt, int]], params: SamplingParams
    ) -> list[list[Group]]:
        waiting: Counter[str] = Counter()
        work = asyncio.gather(
            *(
                self._question(place, prompt, size, replace(params, seed=derive_seed(params.seed, place)), waiting)
                for place, prompt, size in prompts
            )
        )
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
        self, place: int, prompt: Prompt, size: int, params: SamplingParams, waiting: Counter[str]
    ) -> list[Group]:
        seeds = [derive_seed(params.seed, index) for index in range(size)]
        work = (self._episode(prompt, n, replace(params, seed=seed), waiting) for n, seed in enumerate(seeds))
        episodes = await asyncio.gather(*work)
        groups = [group for name in self.authors for group in groups_of(prompt, episodes, name, place)]
        if not any(group.author == self.first for group in groups):
            groups.insert(0, Group(prompt, [], self.first, place))
        await asyncio.gather(*(self._score(group, waiting) for group in groups))
        return groups

    async def _score(self, group: Group, waiting: Counter[str]) -> None:
        scorer = self.authors[group.author].scorer
        scorable = replace(group, trajectories=[t for t in group.trajectories if not t.failure])
        if scorer and scorable.trajectories:
            await _named(waiting, "rewards", scorer.score(scorable))

    async def _episode(self, prompt: Prompt, number: int, params: SamplingParams, waiting: Counter[str]) -> Episode:
        episode = Episode(prompt, number=number)
        for _ in range(self._env_retries + 1):
            episode = Episode(prompt, number=number)
            try:
                await self._play(episode, params, waiting)
                break
            except EnvironmentFailed as error:
                if not episode.of(self.first):
                    self._begin(episode, self.first, list(prompt.token_ids), params, "")
                for trajectory in episode.trajectories:
                    trajectory.failure = error.failure
        return episode

    async def _play(self, episode: Episode, params: SamplingParams, waiting: Counter[str]) -> None:
        """The authors' turns and the environment's answers; the environment is always closed afterwards."""
        with _environment():
            env: Env = self._make_env({"prompt": episode.prompt} | self._text)
        try:
            await self._take_turns(env, episode, params, waiting)
        finally:
            if (close := getattr(env, "close", None)) is not None:
                with _environment():
                    await _named(waiting, "environment", close())

    async def _take_turns(self, env: Env, episode: Episode, params: SamplingParams, waiting: Counter[str]) -> None:
        with _environment():
            context = list(await _named(waiting, "environment", env.reset()))
        author, stop = self.first, getattr(env, "stop", ())
        streams = {author: self._begin(episode, author, context, params, "")}
        for place in itertools.count():
            stream = streams[author]
            seen, own = stream.context + stream.turn.token_ids, params.of(author)
            ask = replace(
                own, stop=(*own.stop, *stop), max_tokens=stream.limit - len(seen), seed=derive_seed(params.seed, place)
            )
            sampled = await _named(waiting, "sampler", self.authors[author].sampler.sample(seen, ask))
            completion = self._record(stream, sampled, author)
            with _environment():
                step: Step = await _named(waiting, "environment", env.step(completion))
                _reward(step, stream, streams)
                if step.author is not None and step.author not in self.authors:
                    raise ValueError(f"handed the turn to {step.author!r}, expected one of {', '.join(self.authors)}")
            if step.done:
                stream.trajectory.stop_reason = step.stop_reason or completion.stop_reason
                return
            stays = (step.author or author) == author and step.context is None
            author = step.author or author
            if step.context is not None:
                streams[author] = self._begin(episode, author, list(step.context), params, step.compared)
            elif (stays and completion.stop_reason == "length") or not _extended(streams, author, step.observation):
                return

    def _begin(
        self, episode: Episode, author: str, context: list[int], params: SamplingParams, compared: str
    ) -> Stream:
        """A new trajectory of an author, who reads `context`."""
        prompt = episode.prompt
        if tuple(context) != prompt.token_ids:
            text = prompt.text if author == self.first and not episode.trajectories else None
            text = self.authors[author].text.decode(context) if text is None else text
            prompt = replace(prompt, token_ids=tuple(context), text=text)
        trajectory = Trajectory(prompt, [], "stop", author=author, compared=compared, episode=episode)
        episode.trajectories.append(trajectory)
        return Stream(trajectory, context, Turn(author, []), len(context) + params.of(author).max_tokens)

    def _record(self, stream: Stream, completion: Completion, author: str) -> Completion:
        """Write a sampled completion into the stream; returns the whole turn so far."""
        turn, trajectory = stream.turn, stream.trajectory
        completion = _joined(turn, completion)
        if not turn.token_ids:
            trajectory.turns.append(turn)
        turn.token_ids, turn.rollout_logprobs = completion.token_ids, completion.logprobs
        turn.policy_version = completion.policy_version
        turn.text = trajectory.text = self.authors[author].text.decode(completion.token_ids)
        trajectory.stop_reason = completion.stop_reason
        return completion


def _extended(streams: Mapping[str, Stream], author: str, observation: list[int]) -> bool:
    """Add the environment's observation to the next author's stream; returns whether there is room for an answer.

    The next turn extends the exact tokens of the last one: nothing is decoded and tokenized again. An observation
    without room for an answer is dropped.
    """
    if author not in streams:
        raise EnvironmentFailed(
            Failure("environment", "invalid", f"handed the turn to {author!r}, who has no context yet")
        )
    stream = streams[author]
    after = stream.context + stream.turn.token_ids + observation
    if len(after) >= stream.limit:
        stream.trajectory.stop_reason = "context_full" if observation else "length"
        return False
    if observation:
        stream.context = after
        stream.trajectory.turns.append(Turn(ENVIRONMENT, observation))
        stream.turn = Turn(author, [])
    return True


def _reward(step: Step, stream: Stream, streams: Mapping[str, Stream]) -> None:
    """Write the environment's rewards into the turn just taken and into other authors' last turns."""
    stream.turn.reward = step.reward
    for name, reward in step.rewards.items():
        turn = streams[name].turn
        turn.reward = reward if turn.reward is None else turn.reward + reward
    for reward in (step.reward, *step.rewards.values()):
        if reward is not None and not math.isfinite(reward):
            raise ValueError(f"gave the reward {reward}, expected a finite number")


def _kept(group: Group, keep: Mapping[str, Piece]) -> Group:
    """The group with the trajectories that its author's keep function leaves; none of an untrained author."""
    scored = replace(group, trajectories=[t for t in group.trajectories if not t.failure])
    if group.author not in keep or not scored.trajectories:
        return replace(group, trajectories=[])
    piece = keep[group.author]
    unknown = dict.fromkeys(piece.data, math.nan)
    return replace(group, trajectories=piece(unknown | group.known | {"group": scored}))


def _why_nothing(sampled: Sequence[Group], keep: Mapping[str, Piece]) -> str:
    failures = [t.failure for group in sampled for t in group.trajectories if t.failure]
    if failures:
        reason = Counter(f"{f.source} {f.kind}: {f.message}" for f in failures).most_common(1)[0][0]
        return f"most common failure: {reason}"
    return f"`keep: {', '.join(piece.name for piece in keep.values())}` dropped every group"


def _joined(turn: Turn, completion: Completion) -> Completion:
    """The turn's earlier tokens and the completion as one, with the older policy_version of the two."""
    if not turn.token_ids:
        return completion
    return replace(
        completion,
        token_ids=turn.token_ids + completion.token_ids,
        logprobs=turn.rollout_logprobs + completion.logprobs,
        policy_version=min(turn.policy_version, completion.policy_version),
    )


@contextmanager
def _environment() -> Iterator[None]:
    """Turns an exception of the environment into EnvironmentFailed."""
    try:
        yield
    except Exception as error:
        kind = "timeout" if isinstance(error, TimeoutError) else "invalid" if isinstance(error, ValueError) else "crash"
        raise EnvironmentFailed(Failure("environment", kind, f"{type(error).__name__}: {error}")) from error


async def _named(waiting: Counter[str], who: str, work: Awaitable[Any]) -> Any:
    """Await `work`, counted under `who` meanwhile, so that the deadline's message can name it."""
    waiting[who] += 1
    try:
        return await work
    finally:
        waiting[who] -= 1

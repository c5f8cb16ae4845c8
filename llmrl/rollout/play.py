"""Playing an episode: an environment and the roles that write in it, turn by turn."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any, Protocol, get_args

from llmrl.envs.base import AuthorText, Env, Step
from llmrl.envs.dialogue import Dialogue
from llmrl.pieces import Piece
from llmrl.recipe_turns import Turns
from llmrl.rollout.sampler import Completion, Sampler, SamplingParams, derive_seed
from llmrl.spans import span
from llmrl.types import ENVIRONMENT, POLICY, Episode, Failure, Group, Prompt, StopReason, Trajectory, Turn

CLOSE_SECONDS = 10.0
"""An environment that takes longer to close has failed."""


class Scorer(Protocol):
    """Fills in a group's scores, rewards and failures."""

    async def begin(self, group: Group) -> None:
        """The scores for which no other trajectory's are needed; what has them is left as it is."""
        ...

    async def score(self, group: Group) -> None:
        """All scores, after `begin` of all groups of the question."""
        ...


@dataclass(frozen=True)
class Author:
    """A role in the collector: its sampler, the scorer of its trajectories, or None, and its text conversions.

    writers: the samplers that write some of a group's completions in the policy's place, by writer.
    """

    sampler: Sampler
    scorer: Scorer | None
    text: AuthorText
    writers: Mapping[str, Sampler] = field(default_factory=dict)

    def sampler_of(self, writer: str) -> Sampler:
        """The sampler of what `writer` writes."""
        return self.sampler if writer == POLICY else self.writers[writer]


@dataclass
class Stream:
    """One author's unfinished trajectory in an episode.

    context: all tokens before the author's current turn. limit: the most tokens of the context and the turn together.
    began: when the turn began, on the monotonic clock.
    """

    trajectory: Trajectory
    context: list[int]
    turn: Turn
    limit: int
    began: float = 0.0


class EnvironmentFailed(Exception):
    """An exception of a user's environment, which becomes a failure of its episode."""

    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.failure = failure


class Player:
    """Plays episodes: environments of one kind against the authors' samplers.

    retries: fresh starts of an episode whose environment failed, before it is given up. max_prompt_tokens: of every
    context that an environment makes. turns: how those of a world are taken.
    """

    def __init__(
        self,
        authors: Mapping[str, Author],
        make_env: Piece,
        *,
        retries: int,
        max_prompt_tokens: int | None = None,
        turns: Turns | None = None,
    ):
        self.authors = authors
        self.first = next(iter(authors))
        self._make_env = make_env
        texts = {name: author.text for name, author in authors.items()}
        self._text = {"encode": texts[self.first].encode, "decode": texts[self.first].decode, "authors": texts}
        self._retries = retries
        self._max_prompt_tokens = max_prompt_tokens
        self._turns = turns or Turns()

    async def episode(
        self, prompt: Prompt, number: int, params: SamplingParams, waiting: Counter[str], writer: str = POLICY
    ) -> Episode:
        """One answer to a question, or its failure; waiting: running calls by kind, for the deadline's message.

        writer: who writes the first author's turns.
        """
        episode = Episode(prompt, number=number)
        for _ in range(self._retries + 1):
            episode = Episode(prompt, number=number)
            try:
                await self._play(episode, params, waiting, writer)
                break
            except EnvironmentFailed as error:
                if not episode.of(self.first):
                    self._begin(episode, self.first, list(prompt.token_ids), params, "")
                for trajectory in episode.trajectories:
                    trajectory.failure = error.failure
        for trajectory in episode.of(self.first):
            trajectory.writer = writer
            if writer != POLICY:  # else the other's log-probabilities would pass for the policy's
                trajectory.turns = [replace(turn, rollout_logprobs=[]) for turn in trajectory.turns]
        return episode

    async def _play(self, episode: Episode, params: SamplingParams, waiting: Counter[str], writer: str) -> None:
        """The authors' turns and the environment's answers; the environment is always closed afterwards."""
        with _environment():
            env = self._made(episode.prompt)
        try:
            await self._take_turns(env, episode, params, waiting, writer)
        finally:
            if (close := getattr(env, "close", None)) is not None:
                with _environment():
                    async with asyncio.timeout(CLOSE_SECONDS):
                        await counted(waiting, "environment", close())

    def _made(self, prompt: Prompt) -> Env:
        """The environment of an episode; a world becomes one by the recipe's turns."""
        seed = prompt.row.get("seed")
        seed = seed if isinstance(seed, int) else derive_seed("episode", prompt.id)
        made = self._make_env({"prompt": prompt, "row": prompt.row, "seed": seed} | self._text)
        if not hasattr(made, "act"):
            return made
        texts = {name: author.text for name, author in self.authors.items()}
        return Dialogue(made, self._turns, texts, prompt, seed)

    async def _take_turns(
        self, env: Env, episode: Episode, params: SamplingParams, waiting: Counter[str], writer: str
    ) -> None:
        with _environment():
            opening = await counted(waiting, "environment", env.reset())
            if not isinstance(opening, Step):
                opening = Step(list(opening), done=False)
            author = opening.author or self.first
            context = _tokens(opening.observation, self.authors[author].text)
        streams = {author: self._begin(episode, author, context, params, opening.compared)}
        begun = {(author, opening.compared): streams[author]}
        _know(opening, episode, streams[author])
        for place in itertools.count():
            stream = streams[author]
            if not stream.turn.token_ids:
                stream.turn.place = place
            ask = self._asked(env, stream, author, params, place)
            sampler = self.authors[author].sampler_of(writer if author == self.first else POLICY)
            sampled = await counted(waiting, "sampler", sampler.sample(stream.context + stream.turn.token_ids, ask))
            completion = self._record(stream, sampled, author)
            with _environment():
                step: Step = await counted(waiting, "environment", env.step(completion))
                self._refuse_unusable(step, author, streams)
                _answered(step, stream, streams)
            if step.done:
                stream.trajectory.stop_reason = step.stop_reason or completion.stop_reason
                _know(step, episode)
                return
            stays = (step.author or author) == author and step.context is None
            if step.context is not None and step.restarts:
                streams[step.author or author] = _resumed(begun, step.author or author, step.compared)
                step = replace(step, observation=step.context, context=None)
            cut = completion.stop_reason == "length" and getattr(env, "turn_tokens", None) is None
            cut, author = stays and cut, step.author or author
            if step.context is not None:
                streams[author] = self._begin(episode, author, list(step.context), params, step.compared)
                begun[author, step.compared] = streams[author]
            elif cut or not self._extended(streams, author, step):
                with _environment():
                    _know(await _last_words(env, step, stream, streams, waiting), episode)
                return
            _know(step, episode, streams[author])

    def _asked(self, env: Env, stream: Stream, author: str, params: SamplingParams, place: int) -> SamplingParams:
        """The parameters of an author's next completion in its turn."""
        own, most = params.of(author), stream.limit - len(stream.context) - len(stream.turn.token_ids)
        if (turn_tokens := getattr(env, "turn_tokens", None)) is not None:
            most = min(most, turn_tokens)
        stop = (*own.stop, *getattr(env, "stop", ()))
        ask = replace(own, stop=stop, max_tokens=most, seed=derive_seed(params.seed, place))
        if (adjusted := getattr(env, "adjusted", None)) is None:
            return ask
        with _environment():
            return adjusted(ask)

    def _refuse_unusable(self, step: Any, author: str, streams: Mapping[str, Stream]) -> None:
        """Raises ValueError for a step that the episode cannot go on with."""
        if not isinstance(step, Step):
            raise ValueError(f"step returned {type(step).__name__}, expected a Step")
        if step.author is not None and step.author not in self.authors:
            raise ValueError(f"handed the turn to {step.author!r}, expected one of {', '.join(self.authors)}")
        if unknown := [name for name in step.rewards if name not in streams]:
            raise ValueError(f"rewarded {unknown[0]!r}, expected one who has written: {', '.join(streams)}")
        if step.stop_reason is not None and step.stop_reason not in get_args(StopReason):
            raise ValueError(f"gave the stop reason {step.stop_reason!r}, expected {', '.join(get_args(StopReason))}")
        text = self.authors[step.author or author].text
        if step.context is not None:
            _tokens(step.context, text)
        elif step.observation:
            _tokens(step.observation, text)

    def _begin(
        self, episode: Episode, author: str, context: list[int], params: SamplingParams, compared: str
    ) -> Stream:
        """A new trajectory of an author, who reads `context`."""
        prompt, limit = episode.prompt, self._max_prompt_tokens
        if limit is not None and len(context) > limit:
            message = f"gave {author} a context of {len(context)} tokens, more than rollout.max_prompt_tokens {limit}"
            raise EnvironmentFailed(Failure("environment", "invalid", message))
        if tuple(context) != prompt.token_ids:
            text = prompt.text if author == self.first and not episode.trajectories else None
            text = self.authors[author].text.decode(context) if text is None else text
            prompt = replace(prompt, token_ids=tuple(context), text=text)
        trajectory = Trajectory(prompt, [], "stop", author=author, compared=compared, episode=episode)
        episode.trajectories.append(trajectory)
        return Stream(trajectory, context, Turn(author, []), len(context) + params.of(author).max_tokens, monotonic())

    def _record(self, stream: Stream, completion: Completion, author: str) -> Completion:
        """Write a sampled completion into the stream; returns the whole turn so far."""
        turn, trajectory = stream.turn, stream.trajectory
        completion = _joined(turn, completion)
        if not turn.token_ids:
            trajectory.turns.append(turn)
            turn.given = completion.given
        turn.token_ids, turn.rollout_logprobs = completion.token_ids, completion.logprobs
        turn.policy_version = completion.policy_version
        turn.text = trajectory.text = self.authors[author].text.decode(completion.token_ids)
        trajectory.stop_reason = completion.stop_reason
        return replace(completion, text=turn.text)

    def _extended(self, streams: Mapping[str, Stream], author: str, step: Step) -> bool:
        """Add the environment's observation to the next author's stream; returns whether there is room for an answer.

        The next turn extends the exact tokens of the last one: nothing is decoded and tokenized again. An observation
        without room for an answer is dropped.
        """
        observation = step.observation
        if author not in streams:
            raise EnvironmentFailed(
                Failure("environment", "invalid", f"handed the turn to {author!r}, who has no context yet")
            )
        stream = streams[author]
        after = observation if step.restarts else stream.context + stream.turn.token_ids + observation
        if len(after) >= stream.limit:
            stream.trajectory.stop_reason = "context_full" if observation else "length"
            return False
        if observation:
            text = self.authors[author].text.decode(observation)
            stream.context = after
            stream.trajectory.turns.append(Turn(ENVIRONMENT, observation, text=text, restarts=step.restarts))
            stream.turn, stream.began = Turn(author, []), monotonic()
        return True


def _tokens(token_ids: Any, text: AuthorText) -> list[int]:
    """The token ids as a list; raises ValueError for none, and for what is no token of the author's vocabulary."""
    found = list(token_ids)
    limit = text.vocabulary if text.vocabulary is not None else math.inf
    bad = [one for one in found if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < limit]
    if bad or not found:
        shown = repr(bad[0]) if bad else "nothing"
        below = f" below {limit}" if text.vocabulary is not None else ""
        raise ValueError(f"gave {shown} as tokens, expected token ids{below}")
    return found


def _resumed(begun: Mapping[tuple[str, str], Stream], author: str, compared: str) -> Stream:
    """The stream of an author's last trajectory of that name, which goes on."""
    if (author, compared) not in begun:
        message = f"goes on with a trajectory {compared!r} of {author}, which has not begun"
        raise EnvironmentFailed(Failure("environment", "invalid", message))
    return begun[author, compared]


def _answered(step: Step, stream: Stream, streams: Mapping[str, Stream]) -> None:
    """Write the environment's answer into the turn just taken, and its rewards into other authors' last turns."""
    turn = stream.turn
    turn.reward, turn.action, turn.valid = step.reward, step.action, step.valid
    turn.seconds = monotonic() - stream.began
    for name, reward in step.rewards.items():
        turn = streams[name].turn
        turn.reward = reward if turn.reward is None else turn.reward + reward
    rewards = [("reward", one) for one in (step.reward, step.episode_reward, *step.rewards.values()) if one is not None]
    for name, number in (*rewards, *step.metrics.items()):
        if not math.isfinite(number):
            raise ValueError(f"gave the {name} {number}, expected a finite number")


async def _last_words(
    env: Env, step: Step, stream: Stream, streams: Mapping[str, Stream], waiting: Counter[str]
) -> Step:
    """The last step of an episode that a limit ended, with what the environment adds to it."""
    ask = getattr(env, "cut", None)
    last = None if ask is None else await counted(waiting, "environment", ask())
    if last is None:
        return step
    step = step.followed_by(last)
    _answered(replace(step, rewards=last.rewards), stream, streams)  # the others have their rewards of before
    return step


def _know(step: Step, episode: Episode, stream: Stream | None = None) -> None:
    """Write what a step says of the whole episode; stream: of the author whose turn begins in the step's state."""
    if stream is not None and step.state is not None:
        stream.turn.state = step.state
    for trajectory in episode.trajectories:
        if step.solved is not None:
            trajectory.solved = step.solved
        if step.hidden is not None:
            trajectory.hidden = step.hidden
        trajectory.measured.update(step.metrics)
        if step.answer is not None and trajectory.author == episode.trajectories[0].author:
            trajectory.text = step.answer
        if step.episode_reward is not None:
            last = trajectory.own_turns[-1]
            last.reward = step.episode_reward + (last.reward or 0.0)


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


async def counted(waiting: Counter[str], who: str, work: Awaitable[Any]) -> Any:
    """Await `work`, counted under `who` meanwhile, so that the deadline's message and a profile can name it."""
    waiting[who] += 1
    try:
        with span(who):
            return await work
    finally:
        waiting[who] -= 1

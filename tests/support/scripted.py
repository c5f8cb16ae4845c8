"""A sampler and rewards that follow a script, and a Collector made of them."""

from __future__ import annotations

import asyncio
import math
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmrl.data.stream import PromptStream
from llmrl.envs.base import AuthorText
from llmrl.envs.single_turn import single_turn
from llmrl.pieces import Piece, bind
from llmrl.rollout.collect import Collector
from llmrl.rollout.group_sampling import Evenly
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.types import ACTOR, Failure, Group, Prompt, Score

PROMPTS = [Prompt(f"p{n}", (3 + n, 4 + n), f"question {n}", {"n": n}) for n in range(10)]
PARAMS = SamplingParams(max_tokens=6, seed=11)


def piece(function: Callable[..., Any], **settings: Any) -> Piece:
    return bind(function.__name__, function, settings, key="test")


class EchoSampler:
    """Answers with three tokens made from the seed, some sooner than others."""

    policy_version = 2

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], SamplingParams]] = []

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        self.asked.append((list(token_ids), params))
        await asyncio.sleep(params.seed % 7 / 1000)
        tokens = [3 + (params.seed >> shift) % 20 for shift in (0, 5, 10)][: params.max_tokens]
        return Completion(tokens, [-token / 10 for token in tokens], "stop", self.policy_version)

    def load_weights(self, weights: Any, policy_version: int) -> None: ...

    def close(self) -> None: ...


class Verdicts:
    """Says of each trajectory, by its prompt's number and its place in the group, whether it is correct."""

    def __init__(self, verdict: Callable[[int, int], bool | Failure] = lambda n, place: place % 2 == 0):
        self._verdict = verdict

    async def begin(self, group: Group) -> None: ...

    async def score(self, group: Group) -> None:
        for place, trajectory in enumerate(group.trajectories):
            found = self._verdict(group.prompt.row["n"], place)
            if isinstance(found, Failure):
                trajectory.failure, trajectory.reward = found, math.nan
            else:
                trajectory.scores["verifier"] = Score(float(found), found)
                trajectory.scores["length"] = Score(0.5)
                trajectory.reward = float(found) + 0.5


class ByRound(Verdicts):
    """Says it by a prompt's number, how often the prompt was scored before, and the place in the group."""

    def __init__(self, verdict: Callable[[int, int, int], bool | Failure]):
        self._by_round = verdict
        self._scored: Counter[int] = Counter()

    async def begin(self, group: Group) -> None: ...

    async def score(self, group: Group) -> None:
        n = group.prompt.row["n"]
        number = self._scored[n]
        self._scored[n] += 1
        self._verdict = lambda n, place: self._by_round(n, number, place)
        await super().score(group)


def author(sampler: Any = None, scorer: Any = None) -> Author:
    """Who writes tokens that are read as numbers."""
    text = AuthorText(
        encode=lambda text, *, special=False: list(text.encode()),
        decode=lambda token_ids: " ".join(map(str, token_ids)),
    )
    return Author(sampler or EchoSampler(), scorer or Verdicts(), text)


def make(
    sampler: Any = None,
    scorer: Any = None,
    env: Callable[..., Any] = single_turn,
    others: Mapping[str, Author] | None = None,
    **settings: Any,
) -> Collector:
    """A collector of an actor, who answers, and of the other authors."""
    authors = {ACTOR: author(sampler, scorer), **(others or {})}
    return Collector(authors, make_env=piece(env), **({"deadline_seconds": 20.0} | settings))


def asked_of(collector: Collector, name: str = ACTOR) -> list[tuple[list[int], SamplingParams]]:
    """What an author's sampler was asked."""
    sampler = collector.authors[name].sampler
    assert isinstance(sampler, EchoSampler)
    return sampler.asked


def collect(
    collector: Collector, keep: Piece, *, count: int, max_refills: int = 0, group_size: int = 2, prompts=PROMPTS
):
    stream = PromptStream(prompts, 0, False)
    found = collector.collect(
        stream,
        sample_groups=Evenly(collector, group_size),
        keep={ACTOR: keep},
        count=count,
        max_refills=max_refills,
        params=PARAMS,
    )
    return found, round(stream.epoch * len(prompts))


def ids(groups: Sequence[Group]) -> list[str]:
    return [group.prompt.id for group in groups]


def texts(groups: Sequence[Group]) -> list[list[str]]:
    return [[t.text for t in group.trajectories] for group in groups]


def on_two_ranks(run: Callable[[int, Callable[[Any, str], list[Any]]], Any]) -> list[Any]:
    """What `run` gives as rank 0 and as rank 1, which exchange things through the function that it is given."""
    meeting, given, found = threading.Barrier(2), [b"", b""], [None, None]

    def as_rank(rank: int) -> None:
        def gather(thing: Any, phase: str) -> list[Any]:
            given[rank] = pickle.dumps(thing)  # as between processes: what one rank changes is its own
            meeting.wait(20)
            everyone = [pickle.loads(one) for one in given]
            meeting.wait(20)  # nobody gives the next thing before all have read this one
            return everyone

        found[rank] = run(rank, gather)

    threads = [threading.Thread(target=as_rank, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found

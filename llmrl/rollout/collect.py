"""Collecting scored groups: environments run against the sampler, rewards run while others still generate."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from llmrl.envs.base import Encode, Env, Step
from llmrl.errors import RunStopped
from llmrl.pieces import Piece
from llmrl.rollout.sampler import Completion, Sampler, SamplingParams, derive_seed
from llmrl.types import ACTOR, ENVIRONMENT, Failure, Group, Prompt, Trajectory, Turn


class Scorer(Protocol):
    """Fills in a group's scores, rewards and failures."""

    async def score(self, group: Group) -> None: ...


class Prompts(Protocol):
    """Hands out prompts in their order; every rank's copy hands out the same."""

    def take(self, n: int) -> list[Prompt]: ...


Gather = Callable[[Any, str], list[Any]]
Draw = Callable[[Sequence[Prompt], SamplingParams], list[Group]]
"""One scored group per prompt, sampled with the given parameters; see llmrl.rollout.group_sampling."""


@dataclass
class Collected:
    """What `collect` brings: the groups to train on; counts and means over everything that was sampled, and that
    itself, with what failed and what `keep` dropped."""

    groups: list[Group]
    metrics: dict[str, float] = field(default_factory=dict)
    sampled: list[Group] = field(default_factory=list)


class EnvironmentFailed(Exception):
    """Whatever a user's environment raises becomes a failure of its trajectory."""

    def __init__(self, failure: Failure):
        super().__init__(failure.message)
        self.failure = failure


class Collector:
    """Samples and scores groups with one rank's sampler; with more ranks each takes its share of the prompts.

    deadline_seconds: for sampling and scoring what one call of `sample` is given. env_retries: fresh starts of a
    trajectory whose environment failed, before it is given up. gather: what every rank gave, in rank order.
    """

    def __init__(
        self,
        sampler: Sampler,
        scorer: Scorer,
        *,
        make_env: Piece,
        encode: Encode,
        decode: Callable[[list[int]], str],
        deadline_seconds: float,
        env_retries: int = 1,
        rank: int = 0,
        ranks: int = 1,
        gather: Gather = lambda thing, phase: [thing],
    ):
        self.sampler = sampler
        self._scorer = scorer
        self._make_env = make_env
        self._text = {"encode": encode, "decode": decode}
        self._decode = decode
        self._deadline = deadline_seconds
        self._env_retries = env_retries
        self._rank, self._ranks, self._gather = rank, ranks, gather
        self._runner = asyncio.Runner()

    def collect(
        self, prompts: Prompts, *, draw: Draw, keep: Piece, count: int, max_refills: int, params: SamplingParams
    ) -> Collected:
        """`count` groups that `keep` leaves something of; prompts it drops are replaced for `max_refills` rounds.

        draw: how the prompts of a round are sampled. params.seed: the step's; every completion's own seed is derived
        from it. Raises RunStopped if no group is left after the last round, or if a round passes its deadline.
        """
        kept: list[Group] = []
        sampled: list[Group] = []
        failures: list[Failure] = []
        started = time.monotonic()
        for refill in range(max_refills + 1):
            asked = prompts.take(count - len(kept))
            seed = derive_seed(params.seed, refill)
            for group in draw(asked, replace(params, seed=seed)):
                sampled.append(group)
                failures += [t.failure for t in group.trajectories if t.failure]
                scored = replace(group, trajectories=[t for t in group.trajectories if not t.failure])
                chosen = keep({"group": scored}) if scored.trajectories else []
                if chosen:
                    kept.append(replace(group, trajectories=chosen))
            if len(kept) >= count:
                break
        if not kept:
            reasons = Counter(f"{f.source} {f.kind}: {f.message}" for f in failures).most_common(1)
            why = f"most common failure: {reasons[0][0]}" if reasons else f"`keep: {keep.name}` dropped every group"
            raise RunStopped(f"nothing to train on after {max_refills + 1} rounds of {count} prompts; {why}")
        return Collected(kept, _measure(sampled, kept, failures, time.monotonic() - started), sampled)

    def sample(
        self, prompts: Sequence[Prompt], *, group_size: int | Sequence[int], params: SamplingParams
    ) -> list[Group]:
        """One scored group per prompt, in order, over all ranks; params.max_tokens bounds all that follows a prompt.

        group_size: of every group, or each prompt's own, which may be 0.
        A completion's seed comes from params.seed, its prompt's place in `prompts` and its own in the group, so a
        prompt that is given twice is sampled anew. Raises RunStopped past the deadline; after any error the
        collector is closed.
        """
        sizes = [group_size] * len(prompts) if isinstance(group_size, int) else group_size
        mine = list(zip(range(len(prompts)), prompts, sizes, strict=True))[self._rank :: self._ranks]
        try:
            groups = self._runner.run(self._within_deadline(mine, params))
        except BaseException:
            self.close()
            raise
        parts = self._gather(groups, "collecting rollouts")
        return [parts[index % self._ranks][index // self._ranks] for index in range(len(prompts))]

    def close(self) -> None:
        """Cancel what is still under way; the sampler is its maker's to close."""
        self._runner.close()

    async def _within_deadline(self, prompts: Sequence[tuple[int, Prompt, int]], params: SamplingParams) -> list[Group]:
        waiting: Counter[str] = Counter()
        work = asyncio.gather(
            *(
                self._group(prompt, size, replace(params, seed=derive_seed(params.seed, place)), waiting)
                for place, prompt, size in prompts
            )
        )
        await asyncio.wait([work], timeout=self._deadline)
        if work.done():
            return work.result()
        named = ", ".join(f"{count} x {who}" for who, count in waiting.items() if count) or "the event loop"
        raise RunStopped(
            f"rank {self._rank}: sampling and scoring {len(prompts)} prompts passed its deadline of "
            f"{self._deadline:g} s (rollout.deadline_seconds); still waiting for {named}"
        )

    async def _group(self, prompt: Prompt, size: int, params: SamplingParams, waiting: Counter[str]) -> Group:
        seeds = [derive_seed(params.seed, index) for index in range(size)]
        work = (self._trajectory(prompt, replace(params, seed=seed), waiting) for seed in seeds)
        group = Group(prompt, await asyncio.gather(*work))
        scorable = Group(prompt, [t for t in group.trajectories if not t.failure])
        if scorable.trajectories:
            await _named(waiting, "rewards", self._scorer.score(scorable))
        return group

    async def _trajectory(self, prompt: Prompt, params: SamplingParams, waiting: Counter[str]) -> Trajectory:
        trajectory = Trajectory(prompt, turns=[], stop_reason="stop")
        for _ in range(self._env_retries + 1):
            trajectory = Trajectory(prompt, turns=[], stop_reason="stop")
            try:
                await self._play(trajectory, params, waiting)
                break
            except EnvironmentFailed as error:
                trajectory.failure = error.failure
        return trajectory

    async def _play(self, trajectory: Trajectory, params: SamplingParams, waiting: Counter[str]) -> None:
        """Actor and environment in turn, until the environment is done or max_tokens have followed the prompt."""
        with _environment():
            env: Env = self._make_env({"prompt": trajectory.prompt} | self._text)
            stop = (*params.stop, *getattr(env, "stop", ()))
            context = list(await _named(waiting, "environment", env.reset()))
        if tuple(context) != trajectory.prompt.token_ids:
            trajectory.prompt = replace(trajectory.prompt, token_ids=tuple(context))
        limit = len(context) + params.max_tokens
        turn = Turn(ACTOR, [])
        for place in itertools.count():
            seen = context + turn.token_ids
            ask = replace(params, stop=stop, max_tokens=limit - len(seen), seed=derive_seed(params.seed, place))
            completion = _joined(turn, await _named(waiting, "sampler", self.sampler.sample(seen, ask)))
            if not turn.token_ids:
                trajectory.turns.append(turn)
            turn.token_ids, turn.rollout_logprobs = completion.token_ids, completion.logprobs
            turn.policy_version = completion.policy_version
            trajectory.text = self._decode(completion.token_ids)
            trajectory.stop_reason = completion.stop_reason
            with _environment():
                step: Step = await _named(waiting, "environment", env.step(completion))
                if step.reward is not None and not math.isfinite(step.reward):
                    raise ValueError(f"gave the reward {step.reward}, expected a finite number")
                turn.reward = step.reward
                after = context + completion.token_ids + step.observation
            if step.done or completion.stop_reason == "length":
                return
            if len(after) >= limit:  # an observation that nothing can answer is not kept
                trajectory.stop_reason = "length"
                return
            if step.observation:
                # the next turn extends the exact tokens of this one: nothing is decoded and tokenized again
                context = after
                trajectory.turns.append(Turn(ENVIRONMENT, step.observation))
                turn = Turn(ACTOR, [])


def _joined(turn: Turn, completion: Completion) -> Completion:
    """All that the actor said in a turn that went on; as old as its oldest part."""
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
    """Inside, what is raised is the environment's fault."""
    try:
        yield
    except Exception as error:
        kind = "timeout" if isinstance(error, TimeoutError) else "invalid" if isinstance(error, ValueError) else "crash"
        raise EnvironmentFailed(Failure("environment", kind, f"{type(error).__name__}: {error}")) from error


async def _named(waiting: Counter[str], who: str, work: Awaitable[Any]) -> Any:
    """Await `work`, counted under `who` meanwhile, so that a deadline can say who was waited for."""
    waiting[who] += 1
    try:
        return await work
    finally:
        waiting[who] -= 1


def _measure(sampled: list[Group], kept: list[Group], failures: list[Failure], seconds: float) -> dict[str, float]:
    scored = [t for group in sampled for t in group.trajectories if not t.failure]
    verdicts = [float(t.correct) for t in scored if t.correct is not None]
    lengths = [t.completion_tokens for t in scored]
    rewards = [t.reward for t in scored]
    contrast = [len({t.outcome for t in group.trajectories if not t.failure}) > 1 for group in sampled]
    metrics = {
        "reward": _mean(rewards),
        "reward_std": _mean([(r - _mean(rewards)) ** 2 for r in rewards]) ** 0.5,
        "completion_tokens": _mean(lengths),
        "completion_tokens_max": float(max(lengths, default=0)),
        "truncated": _mean([float(t.stop_reason == "length") for t in scored]),
        "groups_mixed": _mean([float(mixed) for mixed in contrast]),
        "groups_sampled": float(len(sampled)),
        "groups_kept": float(len(kept)),
        "failures": float(len(failures)),
        "rollout_seconds": seconds,
        "rollout_tokens_per_second": sum(lengths) / max(seconds, 1e-9),
    }
    if verdicts:
        metrics["accuracy"] = _mean(verdicts)
    turn_rewards = [turn.reward for t in scored for turn in t.turns if turn.reward is not None]
    if turn_rewards:
        metrics["turn_reward"] = _mean(turn_rewards)
        metrics["rewarded_turns"] = len(turn_rewards) / len(scored)
    for name in sorted({name for t in scored for name in t.scores}):
        scores = [t.scores[name] for t in scored if name in t.scores]
        metrics[f"reward/{name}"] = _mean([score.value for score in scores])
        outcomes = Counter(score.outcome for score in scores if score.outcome is not None)
        for outcome, count in outcomes.items():
            metrics[f"outcome/{name}/{outcome}"] = count / outcomes.total()
    for (source, kind), count in Counter((f.source, f.kind) for f in failures).items():
        metrics[f"failures/{source}/{kind}"] = float(count)
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)  # a step that scored nothing has stopped before
